"""Raw data and the reproducible run under DVC: really kept, pushed, deleted, brought back."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

from proj.data import versions

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
RAW = "data/raw/digits"
UP_TO_DATE = "Data and pipelines are up to date."


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A git repository with what DVC and proj need of the project; nothing is fetched or made yet."""
    folder = tmp_path / "clone"
    (folder / ".dvc").mkdir(parents=True)
    names = (
        ".dvc/config",
        ".dvc/.gitignore",
        ".dvcignore",
        ".gitignore",
        "data.dvc",
        "dvc.yaml",
        "pyproject.toml",
    )
    for name in (*names, "models/README.md"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    for name in ("configs", "src"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    git(folder, "init")
    commit(folder, "first")
    return folder


def sh(folder: Path, *command: str) -> str:
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"  # dvc runs `proj` of dvc.yaml's stages from it
    env = os.environ | {"PATH": path, "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, env=env)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def proj(folder: Path, *args: str) -> str:
    return sh(folder, str(BIN / "proj"), *args)


def dvc(folder: Path, *args: str) -> str:
    return sh(folder, str(BIN / "dvc"), *args)


def git(folder: Path, *args: str) -> str:
    return sh(folder, "git", "-c", "user.name=test", "-c", "user.email=test@example.org", *args)


def commit(folder: Path, message: str) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-m", message)


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def test_data_dvc_names_the_bytes_that_scikit_learn_ships() -> None:
    content = (files("sklearn") / "datasets/data/digits.csv.gz").read_bytes()
    listing = json.dumps([{"md5": md5(content), "relpath": "digits.csv.gz"}])
    (out,) = yaml.safe_load((ROOT / "data.dvc").read_text())["outs"]
    assert out == {
        "md5": f"{md5(listing.encode())}.dir",
        "size": len(content),
        "nfiles": 1,
        "hash": "md5",
        "path": RAW,
    }


def test_outputs_do_not_overlap_and_are_ignored_by_git() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].values()
    outs = [next(iter(out)) for stage in stages for out in stage["outs"]] + [RAW]
    assert all(next(iter(out.values())) == {"persist": True} for stage in stages for out in stage["outs"])
    assert not [(a, b) for a in outs for b in outs if a != b and f"{a}/".startswith(f"{b}/")]
    for out in outs:
        assert subprocess.run(["git", "check-ignore", "-q", f"{out}/x"], cwd=ROOT).returncode == 0, out


def test_data_that_no_dvc_file_names_is_left_alone(tmp_path: Path) -> None:
    raw = tmp_path / "data/raw/mine"
    raw.mkdir(parents=True)
    versions.keep(tmp_path, raw)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "data.dvc").write_text(f"outs:\n- path: {RAW}\n  md5: 0.dir\n")
    versions.keep(tmp_path, raw)
    assert not (tmp_path / ".dvc/cache").exists()


@pytest.mark.slow
def test_a_fresh_clones_data_is_what_data_dvc_names(clone: Path) -> None:
    proj(clone, "data")
    assert dvc(clone, "status", "data.dvc").strip() == UP_TO_DATE
    assert git(clone, "status", "--porcelain") == ""


@pytest.mark.slow
def test_data_that_differ_are_a_new_version_only_when_committed(clone: Path) -> None:
    (clone / RAW).mkdir(parents=True)
    (clone / RAW / "other.csv").write_text("1,2\n")
    before = (clone / "data.dvc").read_text()
    versions.keep(clone, clone / RAW)
    assert (clone / "data.dvc").read_text() == before
    assert not list((clone / ".dvc").glob("cache/files/**/*.dir"))


@pytest.mark.slow
def test_data_come_back_from_the_local_remote_and_so_does_an_older_version(clone: Path) -> None:
    proj(clone, "data")
    file = clone / RAW / "digits.csv.gz"
    first = file.read_bytes()
    dvc(clone, "push")

    # A second version: one more row.
    file.unlink()  # the cache may share its bytes by a link
    file.write_bytes(gzip.compress(gzip.decompress(first) + gzip.decompress(first).splitlines()[0] + b"\n"))
    second = file.read_bytes()
    assert "modified" in dvc(clone, "status", "data.dvc")
    dvc(clone, "commit", "--force", "data.dvc")
    commit(clone, "one more row")
    dvc(clone, "push")

    for gone in ("data", ".dvc/cache"):
        shutil.rmtree(clone / gone)
    dvc(clone, "pull", "data.dvc")
    assert file.read_bytes() == second
    git(clone, "checkout", "HEAD~1", "--", "data.dvc")
    shutil.rmtree(clone / "data")
    dvc(clone, "pull", "data.dvc")
    assert file.read_bytes() == first
    assert "rows" in proj(clone, "data")


@pytest.mark.slow
def test_another_tasks_data_can_be_added(clone: Path) -> None:
    raw = clone / "data/raw/mine"
    raw.mkdir(parents=True)
    (raw / "a.csv").write_text("1,2\n")
    dvc(clone, "add", "data/raw/mine")
    assert git(clone, "status", "--porcelain", "--untracked-files=all") == "?? data/raw/mine.dvc\n"
    shutil.rmtree(clone / ".dvc/cache")
    versions.keep(clone, raw)
    assert dvc(clone, "status", "data/raw/mine.dvc").strip() == UP_TO_DATE


@pytest.mark.slow
def test_repro_makes_the_run_once_and_again_only_after_a_change(clone: Path) -> None:
    _set_epochs(clone, 1)
    proj(clone, "data")
    dvc(clone, "repro")
    run = clone / "models/digits/repro"
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    assert "accuracy" in dvc(clone, "metrics", "show")
    assert dvc(clone, "status").strip() == UP_TO_DATE
    made = (run / "run.json").stat().st_mtime_ns
    dvc(clone, "repro")
    assert (run / "run.json").stat().st_mtime_ns == made
    dvc(clone, "push")
    shutil.rmtree(run)
    dvc(clone, "pull")
    assert (run / "bundle/model.onnx").is_file()

    _set_epochs(clone, 2)
    dvc(clone, "repro")
    assert (run / "metrics.csv").read_text().count("\n") == 3
    assert "train_loss" in (run / "metrics.csv").read_text()


def _set_epochs(clone: Path, n: int) -> None:
    config = clone / "configs/task/digits.yaml"
    text, count = re.subn(r"max_epochs: \d+", f"max_epochs: {n}", config.read_text())
    assert count == 1
    config.write_text(text)
