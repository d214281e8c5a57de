"""dockerfiles/serve.sh by itself: with which words it starts `proj serve`, and where."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from commands import ROOT

from proj.project import find_project

ENTRY = ROOT / "dockerfiles/serve.sh"

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the images are Linux alone")


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A working folder beside a `proj` that says where it is and what it was told."""
    proj = tmp_path / "bin/proj"
    proj.parent.mkdir()
    proj.write_text('#!/bin/sh\npwd\nprintf "%s\\n" "$@"\n')
    proj.chmod(0o755)
    (tmp_path / "app").mkdir()
    return tmp_path / "app"


def started(app: Path, model: str, *args: str) -> subprocess.CompletedProcess[str]:
    path = f"{app.parent / 'bin'}:{os.environ['PATH']}"
    environ = {"PATH": path, "MODEL": model, "HOST": "127.0.0.1", "PORT": "1"}
    return subprocess.run(["sh", ENTRY, *args], cwd=app, env=environ, capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize("url", ["http://host/m", "https://example.com/m", "gs://bucket/models/digits"])
def test_a_model_at_a_url_is_kept_where_any_user_may_write(app: Path, url: str) -> None:
    done = started(app, url, "--workers", "2")
    folder, *words = done.stdout.splitlines()
    assert words == ["--project", "/tmp", "serve", url, "--host", "127.0.0.1", "--port", "1", "--workers", "2"]
    assert find_project(Path(words[1])).models == Path("/tmp/models")
    assert folder == str(app)  # whose serve.yaml counts


@pytest.mark.parametrize(("word", "kept"), [("gs://bucket/m", True), ("cors=https://a.example", False)])
def test_a_second_model_at_a_url_is_kept_there_too(app: Path, word: str, kept: bool) -> None:
    (app / "bundle.json").touch()
    assert (started(app, str(app), word).stdout.splitlines()[1:3] == ["--project", "/tmp"]) is kept


def test_a_model_in_a_folder_is_served_from_the_working_folder(app: Path) -> None:
    (app / "m").mkdir()
    (app / "m/bundle.json").touch()
    assert started(app, "m").stdout.splitlines()[:3] == [str(app), "serve", "m"]


def test_no_model_is_no_start(app: Path) -> None:
    done = started(app, str(app))
    assert (done.returncode, done.stdout) == (2, "")
    assert "this image has no model" in done.stderr
