"""What made a run: versions, commit, and what the working tree had that the commit has not."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "proj",
    "torch",
    "pytorch-lightning",
    "timm",
    "torchmetrics",
    "onnx",
    "onnxruntime",
    "numpy",
    "pillow",
    "hydra-core",
)
MAX_DIFF_BYTES = 1_000_000
_SECRETS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----"
    r"|\b(?:gh[pousr]_|github_pat_|hf_|sk-|xox[abp]-|AKIA|ASIA|AIza|ya29\.)[A-Za-z0-9_\-]{8,}"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)",
    re.DOTALL,
)
_ASSIGNED = re.compile(
    r"(?i)((?:[\w\-]*(?:api_?key|secret|token|passw(?:or)?d|credential)[\w\-]*)[\"']?\s*[:=]\s*[\"']?)([^\s\"',;]{4,})"
)


def versions() -> dict[str, str]:
    """Versions of Python, the platform and the packages that decide a result."""
    found = {"python": platform.python_version(), "platform": f"{sys.platform} {platform.machine()}"}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git(root: Path) -> tuple[dict[str, Any], str]:
    """({"commit", "dirty"}, diff of tracked files with secrets masked); ({}, "") outside a repository."""
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return {}, ""
    diff = _git(root, "diff", "HEAD", "--no-ext-diff") or ""
    return {"commit": commit.strip(), "dirty": bool(diff)}, mask(diff)[:MAX_DIFF_BYTES]


def _git(root: Path, *args: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *args], capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


def mask(text: str) -> str:
    """`text` with whatever looks like a key, token or password replaced by ***."""
    return _ASSIGNED.sub(r"\1***", _SECRETS.sub("***", text))
