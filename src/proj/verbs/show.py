"""`proj config`: the resolved config, and where each value came from."""

from __future__ import annotations

from typing import Any

import yaml

from proj import config
from proj.verbs.job import Job


def document(job: Job) -> dict[str, Any]:
    """For --json."""
    return {
        "project": str(job.project.root),
        "configs": str(job.project.configs),
        "config": config.to_dict(job.cfg),
        "origins": job.composed.origins,
    }


def lines(job: Job) -> list[str]:
    """YAML that can be used as it is, each value with its origin as a comment."""
    out = [f"# project {job.project.root} ({job.project.found})", f"# configs {job.project.configs}"]
    body: list[tuple[str, str]] = []
    _walk(config.to_dict(job.cfg), "", 0, job.composed.origins, body)
    width = min(56, max(len(text) for text, _ in body))
    return out + [f"{text:<{width}}  # {origin}" if origin else text for text, origin in body]


def _walk(node: dict[str, Any], prefix: str, depth: int, origins: dict[str, str], out: list[tuple[str, str]]) -> None:
    for k, v in node.items():
        pad = "  " * depth
        if isinstance(v, dict):
            out.append((f"{pad}{k}:", ""))
            _walk(v, f"{prefix}{k}.", depth + 1, origins, out)
        else:
            value = yaml.safe_dump(v, default_flow_style=True, width=10_000).strip().removesuffix("\n...").strip()
            out.append((f"{pad}{k}: {value}", origins[prefix + k]))
