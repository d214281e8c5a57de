"""The wheel in an empty environment outside the repository: alone it serves, with its extra it trains."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from bundles import make_bundle

ROOT = Path(__file__).parents[1]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("uv") is None, reason="needs uv on PATH")]


def uv(*words: str) -> None:
    done = subprocess.run(["uv", *words], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    uv("build", "--quiet", "--wheel", "--out-dir", str(out), str(ROOT))
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel alone."""
    venv = tmp_path_factory.mktemp("venv") / "venv"
    uv("venv", "--quiet", "--python", sys.executable, str(venv))
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    uv("pip", "install", "--quiet", "--compile-bytecode", "--python", str(python), str(wheel))
    return python


def proj(python: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environ = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    return subprocess.run(
        [python, "-m", "proj", *words], cwd=cwd, env=environ, capture_output=True, text=True, timeout=300
    )


def test_the_wheel_alone_says_which_extra_training_needs(python: Path, tmp_path: Path) -> None:
    done = proj(python, tmp_path, "train")
    assert done.returncode == 2
    assert "extra `train`" in done.stderr
    assert "torch" in done.stderr
    assert "pip install proj" not in done.stderr, "that name on the public index is not ours"
    assert list(tmp_path.iterdir()) == []


def is_ready(port: int) -> bool:
    try:
        status = httpx.get(f"http://127.0.0.1:{port}/ready", timeout=5).status_code
    except httpx.TransportError:  # not even listening
        return False
    assert status in {200, 503}  # 503 while the model is being loaded
    return status == 200


def test_the_wheel_alone_serves_a_bundle(python: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    server = subprocess.Popen([python, "-m", "proj", "serve", str(bundle), "--port", str(port)], cwd=tmp_path)
    try:
        deadline = time.monotonic() + 60
        while not is_ready(port):
            assert time.monotonic() < deadline, "not ready within a minute"
            assert server.poll() is None
            time.sleep(0.1)
        picture = (ROOT / "tests/pictures/three.png").read_bytes()
        answer = httpx.post(f"http://127.0.0.1:{port}/predict", files={"file": ("three.png", picture)}, timeout=30)
        assert answer.status_code == 200
        assert "label" in answer.json()
        assert "<canvas" in httpx.get(f"http://127.0.0.1:{port}/", timeout=5).text
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0


def test_the_wheel_with_its_extra_trains(python: Path, wheel: Path, tmp_path: Path) -> None:
    uv("pip", "install", "--quiet", "--python", str(python), f"{wheel}[train]")
    done = proj(python, tmp_path, "train", "trainer.max_epochs=1", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert Path(answer["bundle"]).is_relative_to(tmp_path / "models/digits")
    assert proj(python, tmp_path, "predict", str(ROOT / "tests/pictures")).returncode == 0
