"""Both images, built and run: the serving image answers, the training image trains, as an unknown user."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import loopback
import numpy as np
import pytest
from bundles import make_bundle
from containers import TOOLS, Store
from PIL import Image

from proj import infer

ROOT = Path(__file__).resolve().parents[1]
FILES = ("pyproject.toml", "uv.lock", "README.md", "LICENSE", ".dockerignore")
FOLDERS = ("configs", "dockerfiles", "src")
FORBIDDEN = (".env", ".git/config", "data/raw/x.csv", "models/digits/run-1/checkpoints/best.ckpt", ".venv/x")
UID, GID = 4242, 4343  # no passwd file names them
STRICT = ("--user", f"{UID}:{GID}", "--read-only", "--cap-drop=ALL")
BUNDLE = "models/digits/run-1/bundle"
MISSING = [tool for tool in TOOLS if not shutil.which(tool)]

pytestmark = [
    pytest.mark.image,
    pytest.mark.skipif(bool(MISSING), reason=f"IMAGES NOT TESTED: this machine lacks {', '.join(MISSING)}"),
    pytest.mark.skipif(getattr(os, "getuid", int)() != 0, reason="IMAGES NOT TESTED: they need root"),
]


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    # Not under pytest's own folder: that one is kept after the tests, and these are gigabytes.
    it = Store(Path(tempfile.mkdtemp(prefix="proj-images-")))
    try:
        it.add_base_images()
        yield it
    finally:
        it.remove()


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with a bundle, and with what must not get into an image."""
    folder = tmp_path_factory.mktemp("context")
    for name in FILES:
        shutil.copy(ROOT / name, folder / name)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    make_bundle(folder / BUNDLE)
    for name in FORBIDDEN:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("not for an image")
    return folder


@pytest.fixture(scope="module")
def with_model(store: Store, context: Path) -> str:
    return _build_serving(store, context, "with-model", f"--build-arg=BUNDLE={BUNDLE}")


@pytest.fixture(scope="module")
def without_model(store: Store, context: Path) -> str:
    return _build_serving(store, context, "without-model")


def _build_serving(store: Store, context: Path, tag: str, *args: str) -> str:
    store.build(context / "dockerfiles/serve.dockerfile", context, tag, "--layers", *args)
    return tag


def test_the_context_holds_bundles_but_no_secrets(store: Store, context: Path, tmp_path: Path) -> None:
    everything = tmp_path / "everything.dockerfile"
    everything.write_text("FROM scratch\nCOPY . /\n")
    store.build(everything, context, "everything")
    files = store.files("everything")
    assert f"{BUNDLE}/model.onnx" in files
    assert {"pyproject.toml", "uv.lock", "src/proj/errors.py", "configs/config.yaml"} <= files
    assert not files & set(FORBIDDEN)


def test_serving_image_answers_with_the_model_inside_it(store: Store, with_model: str, context: Path) -> None:
    port = _free_port()
    options = (*STRICT, "-e", "HOST=127.0.0.1", "-e", f"PORT={port}")
    with store.started(with_model, options=options) as name:
        _answers_as_the_bundle_does(store, name, port, context / BUNDLE)
        healthy = store.podman("exec", name, "python", "/opt/entry/healthcheck.py")
        assert healthy.returncode == 0, healthy.stderr
        start = time.monotonic()
        store.podman("stop", "--time", "20", name)
        assert time.monotonic() - start < 15, "SIGTERM did not reach the server"
        exit_code = store.podman("inspect", "--format", "{{.State.ExitCode}}", name).stdout.strip()
        assert exit_code in {"0", "143"}


def test_serving_image_answers_with_a_mounted_model(store: Store, without_model: str, context: Path) -> None:
    port = _free_port()
    mounted = ("--volume", f"{context / BUNDLE}:/bundle:ro", "-e", "MODEL=/bundle")
    listen = ("-e", "HOST=127.0.0.1", "-e", f"PORT={port}")
    with store.started(without_model, options=(*STRICT, *mounted, *listen)) as name:
        _answers_as_the_bundle_does(store, name, port, context / BUNDLE)


def test_serving_image_answers_with_a_model_at_a_url(store: Store, without_model: str, context: Path) -> None:
    """By the image's own user, who may write to /tmp alone, as root may not either on a read-only file system."""
    port = _free_port()
    strict = ("--read-only", "--cap-drop=ALL", "-e", "HOST=127.0.0.1", "-e", f"PORT={port}")
    with loopback.serving() as http:
        for name in ("bundle.json", "model.onnx"):
            http.files[f"/digits/{name}"] = loopback.File((context / BUNDLE / name).read_bytes(), etag='"1"')
        with store.started(without_model, options=(*strict, "-e", f"MODEL={http.url}/digits")) as name:
            _answers_as_the_bundle_does(store, name, port, context / BUNDLE)
            there = store.podman("exec", name, "find", "/tmp/models/.cache", "-name", "model.onnx")
            assert there.stdout.count("model.onnx") == 1, there.stderr


def test_the_health_check_fails_when_nothing_answers(store: Store, without_model: str) -> None:
    options = ("--entrypoint=python", "-e", f"PORT={_free_port()}")
    done = store.run(without_model, "/opt/entry/healthcheck.py", options=options)
    assert done.returncode == 1
    assert "no answer" in done.stderr


@pytest.mark.parametrize("options", [(), ("-e", "MODEL=/nowhere"), ("-e", "MODEL=")])
def test_serving_image_without_a_model_names_both_ways_to_give_one(
    store: Store, without_model: str, options: tuple[str, ...]
) -> None:
    done = store.run(without_model, options=(*STRICT, *options))
    assert done.returncode == 2
    assert "--build-arg BUNDLE=" in done.stderr
    assert "-e MODEL=" in done.stderr
    assert "Traceback" not in done.stderr


def test_serving_image_holds_the_core_alone(store: Store, without_model: str) -> None:
    heavy = ["torch", "pytorch_lightning", "timm", "hydra", "omegaconf", "dvc", "wandb", "sklearn", "pytest"]
    code = f"import importlib.util as u, proj, onnxruntime; print([m for m in {heavy} if u.find_spec(m)])"
    done = store.run(without_model, "-c", code, options=("--entrypoint=python", *STRICT))
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_a_source_edit_installs_no_package_again(store: Store, without_model: str, context: Path) -> None:
    source = context / "src/proj/__init__.py"
    before = source.read_text()
    source.write_text(before + "# edited\n")
    try:
        printed = store.build(context / "dockerfiles/serve.dockerfile", context, without_model, "--layers")
    finally:
        source.write_text(before)
    assert "Built proj" in printed
    assert "onnxruntime" not in printed


def test_training_image_trains_into_the_mounted_volumes(store: Store, context: Path, tmp_path: Path) -> None:
    store.build(context / "dockerfiles/train.dockerfile", context, "train", timeout_s=900)
    for name in ("data", "models"):
        (tmp_path / name).mkdir()
        os.chown(tmp_path / name, UID, GID)
    volumes = tuple(f"--volume={tmp_path / name}:/app/{name}" for name in ("data", "models"))
    options = (*STRICT, *volumes)
    done = store.run("train", "--fast", "task=digits", "model.lr=2e-3", options=options)
    assert done.returncode == 0, done.stderr
    (record_file,) = (tmp_path / "models").glob("digits/*/run.json")
    record = json.loads(record_file.read_text())
    assert record["status"] == "finished"
    assert "model.lr=2e-3" in record["overrides"]
    assert record_file.stat().st_uid == UID
    assert infer.load(record_file.parent / "bundle").manifest.fast
    wrong = store.run("train", "model.lrr=1", options=options)
    assert wrong.returncode == 2
    assert "model.lr" in wrong.stderr


def _answers_as_the_bundle_does(store: Store, container: str, port: int, bundle: Path) -> None:
    """One picture posted to the container and put to the same bundle here: the two answers are equal."""
    url = f"http://127.0.0.1:{port}"
    _wait_until_ready(store, container, url)
    drawing = np.full((40, 40), 255, np.uint8)
    drawing[5:35, 18:22] = 0
    png = io.BytesIO()
    Image.fromarray(drawing).save(png, "PNG")
    upload = {"file": ("one.png", png.getvalue(), "image/png")}
    response = httpx.post(f"{url}/predict", files=upload, timeout=30)
    assert response.status_code == 200, response.text
    model = infer.load(bundle)
    here = infer.encode(model, infer.run(model, infer.decode(model, png.getvalue())[None])[0], "one.png")
    there = response.json()
    assert there["label"] == here["label"]
    assert there["probabilities"] == pytest.approx(here["probabilities"], rel=1e-3, abs=1e-5)


def _wait_until_ready(store: Store, container: str, url: str) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            if httpx.get(f"{url}/ready", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        if store.podman("inspect", "--format", "{{.State.Running}}", container).stdout.strip() == "false":
            break
        time.sleep(0.3)
    logs = store.podman("logs", container)
    raise AssertionError(f"the container is not ready\n{logs.stdout}{logs.stderr}")


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
