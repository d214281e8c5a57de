"""The sides that bench/training.py compares, each a process of its own: `proj train`, the peers, the raw loops."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from proj.train import allocator

PEERS = Path(__file__).parent / "peers"
CLOCK, STOP = "BENCH_CLOCK", "BENCH_STOP"  # as peers/clock.py reads them
# What this shell may have set for other work: each side starts bare, and its own settings count.
CLEARED = ("PYTHON", "OMP_", "KMP_", "GOMP_", "MKL_", "LD_PRELOAD", "MALLOC_", "GLIBC_TUNABLES", "CUBLAS_")
LETTERS_SHOWN = 1500  # of the log of a process that failed
VERSIONS = """
import importlib.metadata as m, json, sys
found = {}
for name in ("torch", "torchvision", "pytorch_lightning", "timm", "fastai"):
    try:
        found[name] = m.version(name)
    except m.PackageNotFoundError:
        pass
print(json.dumps({"python": sys.version.split()[0], **found}))
"""


class SideError(Exception):
    """A side did not run; the text says why."""


@dataclass(frozen=True)
class Times:
    """Of one training. Speeds leave out the first epoch and validation.

    `whole_s`: start of the process to the last weights on disk, and no less than to the training's end: a side that
    keeps the best alone knows only then that they are; `first_step_s`: to the first step's end; `training_s`: from
    Lightning's (or the loop's) start to its end, validation, checkpoints and a frozen backbone's features included.
    """

    images_per_s: float
    steps_per_s: float
    first_step_s: float
    training_s: float
    whole_s: float
    accuracy: float
    images_an_epoch: int


def times(clock: dict[str, Any], *, start: float, weights: Path | None, accuracy: float) -> Times:
    """`clock`: as peers/clock.py gives it. `start`: Unix time of the process. `weights`: a folder, or None."""
    later = clock["epochs"][1:] or clock["epochs"]
    seconds = sum(e["seconds"] for e in later)
    saved = max(newest(weights), clock["ended"]) if weights else clock["ended"]
    return Times(
        images_per_s=sum(e["images"] for e in later) / seconds if seconds else 0.0,
        steps_per_s=sum(e["steps"] for e in later) / seconds if seconds else 0.0,
        first_step_s=clock["first_step"] - start,
        training_s=clock["ended"] - clock["began"],
        whole_s=saved - start,
        accuracy=accuracy,
        images_an_epoch=int(clock["epochs"][-1]["images"]),
    )


def newest(folder: Path) -> float:
    """Unix time of the last write to a file of weights under `folder`."""
    files = [p.stat().st_mtime for p in folder.rglob("*") if p.is_file() and p.name != "history.csv"]
    if not files:
        raise SideError(f"no weights under {folder}")
    return max(files)


def bare(threads: int) -> dict[str, str]:
    """The environment of each side."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(CLEARED)}
    return {**env, "OMP_NUM_THREADS": str(threads)} if threads else env


def run(command: list[str], *, cwd: Path, env: dict[str, str], log: Path, limit_s: float) -> str:
    """What the process wrote on stdout. Raises SideError when it fails or takes longer than `limit_s`."""
    out = log.with_suffix(".out")
    with out.open("w") as stdout, log.open("w") as stderr:
        process = subprocess.Popen(command, cwd=cwd, env=env, stdout=stdout, stderr=stderr, start_new_session=True)
        with _ended(process):
            try:
                code = process.wait(limit_s)
            except subprocess.TimeoutExpired:
                raise SideError(f"stopped after {limit_s:.0f} s") from None
    text = out.read_text(errors="replace")
    if code:
        said = (log.read_text(errors="replace") or text)[-LETTERS_SHOWN:]
        raise SideError(f"exit code {code}: {said.strip()}")
    return text


@contextlib.contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """End the process and its workers, whatever happens here."""
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@dataclass(frozen=True)
class Photos:
    """`source` is what `proj` prepares, `split` the same photos in folders train/, val/ and test/ for the peers."""

    source: Path
    split: Path
    rows: dict[str, int]
    size: int
    block: int
    prepare_s: float

    @property
    def words(self) -> list[str]:
        size = [f"task.height_px={self.size}", f"task.width_px={self.size}", f"task.block={self.block}"]
        return ["task=trashnet", "model=small", *size, f"data.source='{self.source}'"]


class Sides:
    """All in one folder: a project with this repository's configs, the data, a peer's output."""

    def __init__(self, folder: Path, *, peers: Path | None, threads: int, device: str, limit_s: float) -> None:
        self.folder, self.peers, self.threads, self.device, self.limit_s = folder, peers, threads, device, limit_s
        self.project, self.plugin, self.log = folder / "project", folder / "plugin", folder / "side.log"
        self.project.mkdir()
        self.last = Path()  # the run directory of our last training
        _plug(self.plugin)

    def _run(self, command: list[str], cwd: Path, **env: str) -> str:
        return run(command, cwd=cwd, env=bare(self.threads) | env, log=self.log, limit_s=self.limit_s)

    def code(self, text: str) -> None:
        """Run it by our Python."""
        self._run([sys.executable, "-c", text], self.folder)

    def loop(self, script: str, *words: str, best: bool = False) -> dict[str, float]:
        """What a raw loop says, run by our Python: the torch that `proj train` has; with `best` its allocator too."""
        env = allocator.fastest({}) if best else {}
        return dict(json.loads(self._run([sys.executable, str(PEERS / script), *words], self.folder, **env)))

    def proj(self, *words: str) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(self._run([sys.executable, "-m", "proj", *words, "--json"], self.project))
        return said

    def _train(self, words: list[str]) -> list[str]:
        asked = bool(self.threads) and not any(w.startswith("trainer.threads=") for w in words)
        more = [f"trainer.threads={self.threads}"] if asked else []
        return [sys.executable, "-m", "proj", "train", f"trainer.device={self.device}", *more, *words]

    def train(self, words: list[str]) -> Times:
        """`proj train`; its run directory, `last`, stays until the next one."""
        shutil.rmtree(self.project / "models", ignore_errors=True)
        file = self.folder / "clock.json"
        file.unlink(missing_ok=True)
        command = [*self._train(words), "--json"]
        start = time.time()
        said = json.loads(self._run(command, self.project, PYTHONPATH=str(self.plugin), **{CLOCK: str(file)}))
        if not file.exists():
            raise SideError("proj train ran no training of Lightning's that called its entry points")
        self.last = self.project / said["run"]
        clock = json.loads(file.read_text(encoding="utf-8"))
        # The config is written once more when all of it is settled, just before features are extracted.
        clock["began"] = min(clock["began"], (self.last / "config.yaml").stat().st_mtime)
        return times(clock, start=start, weights=self.last / "checkpoints", accuracy=said["metrics"]["accuracy"])

    def settled(self) -> dict[str, Any]:
        """`trainer.*` of our last training, with what its rules decided."""
        content = yaml.safe_load((self.last / "config.yaml").read_text(encoding="utf-8"))
        return dict(content["trainer"])

    def first_step(self, words: list[str]) -> float:
        """Seconds from the start of `proj train` to the end of its first step, where it is stopped."""
        file = self.folder / "clock.json"
        file.unlink(missing_ok=True)
        command = self._train(words)
        env = {"PYTHONPATH": str(self.plugin), CLOCK: str(file), STOP: "first"}
        start = time.time()
        self._run(command, self.project, **env)
        return float(json.loads(file.read_text(encoding="utf-8"))["first_step"]) - start

    def peer(self, script: str, photos: Photos, words: list[str]) -> Times:
        out = self.folder / "peer"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        asked = ["--data", str(photos.split), "--out", str(out), "--size", str(photos.size), "--device", self.device]
        threads = ["--threads", str(self.threads)] if self.threads else []
        start = time.time()
        self._run([str(self.peers), str(PEERS / script), *asked, *threads, *words], self.folder)
        said = json.loads((out / "answer.json").read_text(encoding="utf-8"))
        return times(said["clock"], start=start, weights=out / "weights", accuracy=said["accuracy"])

    def photos(self, folder: Path, *, images: int, size: int) -> Photos:
        """Prepare `images` of the photos in `folder` (0: all), and lay out the same split for the peers."""
        from proj.data import store
        from proj.tasks import trashnet

        here = self.folder / f"photos-{images}"
        found: dict[str, list[Path]] = {}
        for row in trashnet.read(folder.resolve(), trashnet.Options()):
            found.setdefault(str(row.y), []).append(Path(row.x))
        each = images // len(found) if images else None
        for name, files in found.items():
            for file in files[:each]:  # by their own names: the reader makes groups of the numbers in them
                _link(file.resolve(), here / "source" / name / file.name)
        block = 1  # the sides are compared with each other alone; blocks of ten may leave a split without a class
        made = Photos(here / "source", here / "split", {}, size, block, 0.0)
        start = time.monotonic()
        prepared = store.open_(Path(self.proj("data", *made.words)["prepared"]))
        took = time.monotonic() - start
        rows = {}
        for split in ("train", "val", "test"):
            ids = [str(i) for i in prepared.id[prepared.rows(split)]]
            rows[split] = len(ids)
            if missing := set(found) - {i.split("/")[0] for i in ids}:
                raise SideError(f"{split} has no photo of {', '.join(sorted(missing))}: take more --images")
            for i in ids:
                _link((here / "source" / i).resolve(), made.split / split / i)
        return Photos(made.source, made.split, rows, size, block, took)

    def forget_features(self) -> None:
        shutil.rmtree(self.project / "data" / "features", ignore_errors=True)


def machine() -> str:
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
        model = next((x.split(":")[1].strip() for x in info.splitlines() if x.startswith("model name")), "")
    except OSError:
        model = platform.processor()
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{model}, {os.cpu_count()} cores{load}"


def versions(python: str) -> dict[str, str]:
    """Raises SideError when it is no Python."""
    try:
        done = subprocess.run([python, "-c", VERSIONS], capture_output=True, text=True, check=True, timeout=60)
        return dict(json.loads(done.stdout))
    except (OSError, subprocess.SubprocessError, ValueError) as e:
        raise SideError(f"--peers {python} is no Python that runs: {e}") from None


def _link(file: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        to.symlink_to(file)
    except FileExistsError:
        raise SideError(f"two photos of one class are called {to.name}") from None
    except OSError:  # Windows without the right to
        shutil.copyfile(file, to)


def _plug(folder: Path) -> None:
    """A package, for PYTHONPATH, whose entry point hands peers/clock.py's callback to Lightning."""
    info = folder / "bench_clock-1.dist-info"
    info.mkdir(parents=True)
    shutil.copyfile(PEERS / "clock.py", folder / "bench_clock.py")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bench-clock\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[pytorch_lightning.callbacks_factory]\nclock = bench_clock:callbacks\n")
