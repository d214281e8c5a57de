"""One way to run the server, tried: a real `proj serve` in processes of its own, its answers and its speed."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from proj.errors import ProjError
from proj.preprocess.spec import ImageSpec
from proj.serve import load, traffic
from proj.serve.settings import ENV_PREFIX

if TYPE_CHECKING:
    from proj.bundle import Manifest

CONNECTIONS = 64
OWN = 0  # of max_batch: what the engine itself takes
START_S, STOP_S = 60.0, 30.0
WARM_S = 0.3
AT = re.compile(r" at (http://\S+)")
LETTERS_SHOWN = 300

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, order=True)
class Choice:
    """The settings that decide how fast the server is."""

    engine: str
    precision: str
    workers: int
    threads: int
    max_batch: int

    @property
    def settings(self) -> dict[str, str | int]:
        return {"engine": self.engine, "precision": self.precision, "workers": self.workers, "threads": self.threads,
                "max_batch": self.max_batch}  # fmt: skip

    @property
    def batch(self) -> str:
        """The largest batch, in words."""
        return "own" if self.max_batch == OWN else str(self.max_batch)

    @property
    def kind(self) -> str:
        """Engine and precision, in words."""
        return {"onnxruntime": "ONNX Runtime", "openvino": f"OpenVINO {self.precision}"}[self.engine]


@dataclass
class Trial:
    """What was seen of a choice. `numbers` are what it answered to each input, `failed` why it was given up."""

    choice: Choice
    per_second: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    one_ms: list[float] = field(default_factory=list)
    numbers: list[Array] = field(default_factory=list)
    difference: float = 0.0
    failed: str = ""

    @property
    def speed(self) -> float:
        """Median of its answers a second; 0 where it failed."""
        return float(np.median(self.per_second)) if self.per_second and not self.failed else 0.0


class TrialError(Exception):
    """The server did not start or did not answer; the text says why."""


def inputs(manifest: Manifest) -> list[tuple[bytes, str]]:
    """Bodies and content types that `POST /predict` takes: the bundle's samples, else its example."""
    made = [_input(s.body) for s in manifest.samples]
    spec = manifest.spec
    if not made and manifest.modality != "text":
        x = manifest.example.array()[0]
        if isinstance(spec, ImageSpec):
            files = [_png(view) for view in (x if x.ndim == 4 else [x])]
            made = [_input({"views": files} if x.ndim == 4 else {"image": files[0]})]
        else:
            made = [_input({"series": x.tolist()})]
    return made or [_input({"text": "The vote took three hours and ended 52 to 48."})]


def _input(body: dict[str, Any]) -> tuple[bytes, str]:
    if set(body) == {"image"}:  # as itself, as most clients send it
        return base64.b64decode(body["image"].rpartition(",")[2]), "application/octet-stream"
    return json.dumps(body).encode(), "application/json"


def _png(x: Array) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(x[..., 0] if x.shape[-1] == 1 else x).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


def attempt(
    trial: Trial, bundle: Path, bodies: Sequence[tuple[bytes, str]], folder: Path, seconds: float,
    more: Mapping[str, Any],
) -> None:  # fmt: skip
    """Start the choice's server, ask it every input once, then load it for `seconds`; add what was seen to `trial`.

    `folder` is the working folder, with no serve.yaml in it, as beside the bundle. `more`: other settings.
    """
    try:
        with _serving(bundle, {**more, **trial.choice.settings}, folder) as url:
            requests = [traffic.post(url, body, kind) for body, kind in bodies]
            trial.numbers = [_numbers(_ask(url, request)) for request in requests]
            one = load.run(url, requests, connections=1, seconds=seconds / 4, warm_s=WARM_S)
            many = load.run(url, requests, connections=CONNECTIONS, seconds=seconds, warm_s=WARM_S)
    except (TrialError, OSError, ProjError) as e:
        trial.failed = str(e)
        return
    if many.failed or not many.per_second:
        trial.failed = f"answers of {many.statuses}"
        return
    trial.per_second.append(many.per_second)
    trial.one_ms.append(1000 * one.latency_s(0.5))
    trial.p50_ms.append(1000 * many.latency_s(0.5))
    trial.p99_ms.append(1000 * many.latency_s(0.99))


@contextlib.contextmanager
def _serving(bundle: Path, settings: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """A server on a free port, with these settings and nothing of the environment."""
    log = folder / "log"
    environ = {k: v for k, v in os.environ.items() if not k.startswith(ENV_PREFIX) and k not in {"HOST", "PORT"}}
    words = [f"{k}={v}" for k, v in settings.items()]
    command = [sys.executable, "-m", "proj", "serve", str(bundle), "--port", "0", *words]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=environ, cwd=folder)
    try:
        end = time.monotonic() + START_S
        while not (found := AT.search(text := log.read_text(errors="replace"))):
            if process.poll() is not None or time.monotonic() > end:
                raise TrialError(" ".join(text.split())[-LETTERS_SHOWN:] or f"exit code {process.returncode}")
            time.sleep(0.01)
        yield found[1]
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ask(url: str, request: bytes) -> Any:
    status, body = traffic.ask(url, request, STOP_S)
    if status != 200:
        raise TrialError(f"status {status}: {body[:LETTERS_SHOWN]!r}")
    return json.loads(body)


def _numbers(answer: dict[str, Any]) -> Array:
    """An answer's probabilities, or its values."""
    found = answer.get("probabilities") or {n: v["value"] for n, v in answer["values"].items()}
    return np.array(list(found.values()), float)
