"""A project in a folder of its own, and `proj` called in it: in this process, or as a real one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from proj import cli

ROOT = Path(__file__).resolve().parents[1]
PROJ = Path(sys.executable).parent / "proj"


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


def make_project(folder: Path) -> Path:
    """A project with a copy of this repository's configs, and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(ROOT / "configs", folder / "configs")
    (folder / "pyproject.toml").write_text("[tool.proj]\n", encoding="utf-8")
    return folder


def call(capsys: pytest.CaptureFixture[str], *args: str) -> Said:
    """`proj ARGS` in this process: what the entry point does, with its exit code."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main(list(args))
    said = capsys.readouterr()
    return Said(int(stop.value.code or 0), said.out, said.err)


def proj(*args: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """`proj ARGS` as a process of its own."""
    return subprocess.run(
        [PROJ, *args], cwd=cwd, env={**os.environ, **environ}, capture_output=True, text=True, timeout=120, check=False
    )


def contents(folder: Path) -> dict[str, int]:
    """Every file and folder with its time of change, to see that nothing was left behind or touched."""
    return {p.relative_to(folder).as_posix(): p.stat().st_mtime_ns for p in folder.rglob("*")}
