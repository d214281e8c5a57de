"""`proj doctor`: what this machine and project have and lack, and how to mend each."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from proj import console, runs, task
from proj.project import Project
from proj.train import allocator
from proj.verbs.job import TRAIN_PACKAGES

LEAST_FREE_BYTES = 10 * 10**9  # the train extra with CUDA takes 5.5 GB


@dataclass(frozen=True)
class Finding:
    """`state`: ok, note (worth knowing) or bad (a verb will not work). `mend`: a command or sentence."""

    what: str
    state: str
    found: str
    mend: str = ""


def examine(project: Project) -> list[Finding]:
    """Looks only; changes nothing and asks no network."""
    return [
        _python(),
        *_packages(),
        _device(),
        *_allocator(),
        _project(project),
        _writable(project),
        _disk(project),
        *_data(project),
        _runs(project),
        *_programs(),
        *_accounts(),
    ]


def _python() -> Finding:
    good = (3, 11) <= sys.version_info[:2] < (3, 14)
    return Finding(
        "python",
        "ok" if good else "bad",
        platform.python_version(),
        "" if good else "use Python 3.11 to 3.13",
    )


def _packages() -> list[Finding]:
    missing = [p for p in TRAIN_PACKAGES if importlib.util.find_spec(p) is None]
    train = (
        Finding("extra train", "bad", f"not installed: {', '.join(missing)}", "`uv sync --extra train`")
        if missing
        else Finding("extra train", "ok", f"torch {_version('torch')}, timm {_version('timm')}")
    )
    return [
        Finding("core", "ok", f"onnxruntime {_version('onnxruntime')}, fastapi {_version('fastapi')}"),
        train,
    ]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _device() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if importlib.util.find_spec("torch") is None:
        return Finding("device", "note", f"{cores} cores; torch is not installed")
    import torch

    if torch.cuda.is_available():
        return Finding("device", "ok", f"cuda: {torch.cuda.get_device_name(0)}; {cores} cores")
    kind = "mps" if torch.backends.mps.is_available() else "cpu"
    return Finding("device", "ok", f"{kind}; {cores} cores")


def _allocator() -> list[Finding]:
    """What a training will start itself anew with."""
    if not sys.platform.startswith("linux"):
        return []
    name, best = allocator.chosen(os.environ), allocator.FASTEST_FIRST[0]
    if name:
        return [Finding("allocator", "ok", name)]
    mend = "" if allocator.library(best) else f"`apt install {allocator.PACKAGES[best]}`: training is faster with it"
    return [Finding("allocator", "note" if mend else "ok", allocator.current() or "unknown", mend)]


def _project(project: Project) -> Finding:
    own = "has [tool.proj]" in project.found
    return Finding(
        "project",
        "ok" if own else "note",
        f"{project.root} ({project.found})",
        "" if own else "add [tool.proj] to pyproject.toml",
    )


def _writable(project: Project) -> Finding:
    closed = [str(d) for d in (project.data, project.models) if not os.access(_nearest(d), os.W_OK)]
    if not closed:
        return Finding("folders", "ok", "data/ and models/ can be written")
    return Finding("folders", "bad", f"cannot write {', '.join(closed)}", "change their rights, or work elsewhere")


def _nearest(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _disk(project: Project) -> Finding:
    free = runs.free_bytes(project.root)
    low = free < LEAST_FREE_BYTES
    return Finding("disk", "note" if low else "ok", f"{console.size(free)} free", "free some space" if low else "")


def _data(project: Project) -> list[Finding]:
    found = []
    for name in task.available():
        folder = project.data / "prepared" / name
        n = len(list(folder.glob("*/meta.json"))) if folder.is_dir() else 0
        mend = "" if n else f"`proj data task={name}`"
        found.append(Finding(f"data {name}", "ok" if n else "note", f"{n} prepared" if n else "not prepared yet", mend))
    return found


def _runs(project: Project) -> Finding:
    every = runs.every(project.models)
    usable = sum(runs.eligible(r) for _, r in every)
    return Finding(
        "runs",
        "ok" if usable else "note",
        f"{len(every)} runs, {usable} finished on real data",
        "" if usable else "`proj train`",
    )


def _programs() -> list[Finding]:
    wanted = {"git": "records the commit of each run", "docker": "builds the images"}
    return [
        Finding(name, "ok", shutil.which(name) or "")
        if shutil.which(name)
        else Finding(name, "note", "not found", f"install it: it {why}")
        for name, why in wanted.items()
    ]


def _accounts() -> list[Finding]:
    """None is needed: every hosted service has a local default."""
    adc = Path.home() / ".config/gcloud/application_default_credentials.json"
    google = bool(os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")) or adc.is_file()
    accounts = (
        ("W&B", bool(os.environ.get("WANDB_API_KEY")), "set WANDB_API_KEY, or leave track=csv"),
        ("Hugging Face", bool(os.environ.get("HF_TOKEN")), "set HF_TOKEN for private data sets"),
        ("Google Cloud", google, "`gcloud auth application-default login`"),
    )
    return [
        Finding(f"account {name}", "ok", "found")
        if there
        else Finding(f"account {name}", "note", "none (not needed locally)", mend)
        for name, there, mend in accounts
    ]


def lines(findings: list[Finding]) -> list[str]:
    marks = {"ok": "ok  ", "note": "note", "bad": "BAD "}
    width = max(len(f.what) for f in findings)
    return [f"{marks[f.state]}  {f.what:<{width}}  {f.found}{f'  →  {f.mend}' if f.mend else ''}" for f in findings]


def document(findings: list[Finding]) -> list[dict[str, str]]:
    return [asdict(f) for f in findings]
