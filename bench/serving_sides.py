"""The sides that bench/serving.py compares: servers in processes of their own, the model they serve, bare loops."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from training_sides import CLEARED, SideError, run

from proj.serve import traffic

PEERS = Path(__file__).parent / "serving_peers"
START_S = 90.0
LETTERS_SHOWN = 1500
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VERSIONS = """
import importlib.metadata as m, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = m.version(name)
    except m.PackageNotFoundError:
        pass
print(json.dumps({"python": sys.version.split()[0], **found}))
"""
NAMED = ("torch", "torchvision", "timm", "fastapi", "uvicorn", "uvloop", "httptools", "pillow", "onnxruntime",
         "openvino", "simplejpeg", "opencv-python-headless", "litserve", "bentoml", "numpy")  # fmt: skip


@dataclass(frozen=True)
class Made:
    """A model as each side takes it: our bundle (with model.onnx, for all), and torch's weights for timm."""

    bundle: Path
    weights: Path


@dataclass(frozen=True)
class Side:
    """A server: how it is started on a port, and the form field in which it takes a photo ("": as the whole body)."""

    name: str
    command: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    field: str = "file"
    path: str = "/predict"

    def request(self, url: str, photo: bytes) -> bytes:
        if not self.field:
            return traffic.post(url, photo, "image/jpeg", path=self.path)
        return traffic.form(url, photo, path=self.path, field_name=self.field)


class Running:
    """A side's server, from its start to its first answer and to its end. Everything it prints goes to `log`.

    `start_s`: seconds from the process's start to its first answer of 200.
    """

    def __init__(self, side: Side, photo: bytes, log: Path) -> None:
        self.side, self.log = side, log
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        environ = {k: v for k, v in os.environ.items() if not k.startswith((*CLEARED, "PROJ_SERVE_"))}
        environ |= {**side.env, "PORT": str(port)}
        environ.pop("HOST", None)
        command = [word.replace("{port}", str(port)) for word in side.command]
        start = time.monotonic()
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=out, env=environ, cwd=log.parent, start_new_session=True
            )
        try:
            self.start_s = self._first_answer(side.request(self.url, photo), start)
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _first_answer(self, request: bytes, start: float) -> float:
        while True:
            if self.process.poll() is not None or time.monotonic() - start > START_S:
                raise SideError(f"{self.side.name} gave no answer: {self.said()}")
            try:
                status, _ = traffic.ask(self.url, request)
            except OSError:
                status = 0
            if status == 200:
                return time.monotonic() - start
            time.sleep(0.005)

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-LETTERS_SHOWN:].strip()

    def pss_mb(self) -> float:
        """Proportional set size of all its processes, in millions of bytes."""
        return sum(memory_bytes(pid, "Pss") for pid in tree(self.process.pid)) / 1e6

    def rss_mb(self) -> float:
        return sum(memory_bytes(pid, "Rss") for pid in tree(self.process.pid)) / 1e6

    def pause(self) -> None:
        """Stand still, all of it, until `go_on`."""
        self._all(signal.SIGSTOP)

    def go_on(self) -> None:
        self._all(signal.SIGCONT)

    def _all(self, which: signal.Signals) -> None:
        for pid in tree(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, which)

    def children(self) -> list[int]:
        return tree(self.process.pid)[1:]

    def stop(self) -> None:
        if self.process.poll() is None:
            self.go_on()
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
        with contextlib.suppress(ProcessLookupError):  # what it left behind, or all of it where it did not stop
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
    found = [pid]
    for p in found:
        found += parents.get(p, [])
    return found


def memory_bytes(pid: int, what: str) -> int:
    """`what`: "Pss" or "Rss". 0 where the process is gone."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return 1024 * int(re.search(rf"^{what}:\s+(\d+)", text, re.M)[1])  # type: ignore[index]
    return 0


def proj_side(name: str, bundle: Path, *settings: str, field: str = "file") -> Side:
    """`proj serve`, as a user starts it."""
    command = (str(Path(sys.executable).parent / "proj"), "serve", str(bundle), "--port", "{port}", *settings)
    return Side(name, command, field=field)


def peer_sides(made: Made, python: str, *, workers: int, threads: int) -> dict[str, Side]:
    """The other servers; `workers` and `threads` are ours, for the one that gets as many."""
    env = {"MODEL_FOLDER": str(made.bundle), "WEIGHTS": str(made.weights), "PYTHONPATH": str(PEERS)}
    uvicorn = ("-m", "uvicorn", "--host", "127.0.0.1", "--port", "{port}", "--no-access-log", "--log-level", "warning")
    ours = {**env, "THREADS": str(threads)}
    return {
        "fastapi-torch": Side("fastapi-torch", (python, *uvicorn, "fastapi_torch:app"), env),
        "fastapi-onnx": Side("fastapi-onnx", (python, *uvicorn, "fastapi_onnx:app"), env),
        "fastapi-ours": Side(
            "fastapi-ours", (sys.executable, *uvicorn, "--workers", str(workers), "fastapi_ours:app"), ours
        ),
        "litserve": Side("litserve", (python, str(PEERS / "litserve_onnx.py"), "{port}"), env),
        "bentoml": Side(
            "bentoml",
            (str(Path(python).parent / "bentoml"), "serve", "bentoml_onnx:Photos", "--port", "{port}",
             "--working-dir", str(PEERS)),
            {**env, "BENTOML_DO_NOT_TRACK": "True"}, field="photos",
        ),
    }  # fmt: skip


def bare(bundle: Path, photos: Path, threads: int, seconds: float, folder: Path, **engine: str) -> dict[str, float]:
    """Decode and model in loops over bytes in memory: {"images_per_s", "p50_ms", "queue_p99_ms"}."""
    words = [str(bundle), str(photos), "--threads", str(threads), "--seconds", str(seconds)]
    words += [w for k, v in engine.items() for w in (f"--{k}", v)]
    env = {k: v for k, v in os.environ.items() if not k.startswith(CLEARED)}
    command = [sys.executable, str(PEERS / "bare_loop.py"), *words]
    return dict(json.loads(run(command, cwd=folder, env=env, log=folder / "bare.log", limit_s=120 + seconds)))


def versions(python: str) -> dict[str, str]:
    """Raises SideError when it is no Python."""
    try:
        done = subprocess.run([python, "-c", VERSIONS, *NAMED], capture_output=True, text=True, check=True, timeout=60)
        return dict(json.loads(done.stdout))
    except (OSError, subprocess.SubprocessError, ValueError) as e:
        raise SideError(f"{python} is no Python that runs: {e}") from None


def photos(folder: Path, count: int, to: Path) -> list[bytes]:
    """`count` JPEG files from all over `folder`, also copied to `to` for the bare loops."""
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in {".jpg", ".jpeg"})
    if not files:
        raise SideError(f"no JPEG photos under {folder}")
    to.mkdir(parents=True)
    found = []
    for i in range(min(count, len(files))):
        file = files[i * len(files) // min(count, len(files))]
        shutil.copyfile(file, to / f"{i:05}.jpg")
        found.append(file.read_bytes())
    return found


def make(source: Path, folder: Path, *, epochs: int, limit_s: float = 3600) -> Made:
    """Train mobilenetv3_small_100 on photos by `proj train` (224 x 224), which exports it; kept in `folder`."""
    made = Made(folder / "bundle", folder / "weights.pt")
    if made.weights.is_file():
        return made
    project = folder / "project"
    project.mkdir(parents=True, exist_ok=True)
    words = [
        "train", "task=trashnet", "model=small", "model.backbone=mobilenetv3_small_100", "task.height_px=224",
        "task.width_px=224", f"data.source='{source.resolve()}'", f"trainer.max_epochs={epochs}", "model.ema_decay=0",
        "model.calibrate=false", "model.input_size_px=0", "--json",
    ]  # fmt: skip
    env = {k: v for k, v in os.environ.items() if not k.startswith(CLEARED)}
    said = run([sys.executable, "-m", "proj", *words], cwd=project, env=env, log=folder / "train.log", limit_s=limit_s)
    trained = project / json.loads(said)["run"]
    shutil.copytree(trained / "bundle", made.bundle, dirs_exist_ok=True)
    _fold(trained / "checkpoints" / "best.ckpt", made.weights)
    shutil.rmtree(project)
    return made


def _fold(checkpoint: Path, to: Path) -> None:
    """A run's network as timm alone knows it: its head's statistics go into the classifier's weights."""
    import torch

    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    net = {k.removeprefix("net."): v for k, v in state.items()}
    encoder = "encoder." if any(k.startswith("encoder.") for k in net) else ""
    timm = {k.removeprefix(f"{encoder}backbone."): v for k, v in net.items() if k.startswith(f"{encoder}backbone.")}
    w, b = net["head.linear.weight"], net["head.linear.bias"]
    timm["classifier.weight"] = w / net["head.std"]
    timm["classifier.bias"] = b - (w * net["head.mean"] / net["head.std"]).sum(1)
    mean, std = (net[f"{encoder}{k}"].flatten().tolist() for k in ("mean", "std"))
    buffer = io.BytesIO()
    torch.save({"state": timm, "mean": mean, "std": std}, buffer)
    to.write_bytes(buffer.getvalue())
