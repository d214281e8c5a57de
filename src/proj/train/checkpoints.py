"""Checkpoints: written in the background, whole or not at all, the newest few kept to resume from.

checkpoints/
  best.ckpt             the weights that are evaluated (with a moving average: its)
  step-00001200.ckpt    while it trains: all that it takes to go on from there
  last.ckpt             the newest of those, once training has ended
"""

from __future__ import annotations

import contextlib
import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import CheckpointIO
from loguru import logger

from proj.errors import ResourceError

BEST, LAST, STEP = "best.ckpt", "last.ckpt", "step-{:08d}.ckpt"
ANSWERS = ("state_dict", "epoch", "global_step", "pytorch-lightning_version")  # what best.ckpt has of a checkpoint


class Writer(CheckpointIO):
    """Copies what is to be saved at once, and writes it in a thread, one file after the other.

    A file has its own name only when all of it is on the disk: a process or machine that dies leaves the one before.
    """

    def __init__(self) -> None:
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.waiting: list[Future[None]] = []

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:  # noqa: ARG002
        self._raise()
        path = Path(path)
        content = {k: checkpoint[k] for k in ANSWERS} if path.name == BEST else checkpoint
        self.waiting.append(self.thread.submit(_write, _copied(content), path))

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        return read(path)

    def remove_checkpoint(self, path: Any) -> None:
        self.waiting.append(self.thread.submit(_remove, Path(path)))

    def keep(self, folder: Path, count: int) -> None:
        """Once what was saved so far is written, remove all but the newest `count` checkpoints to resume from."""
        self.waiting.append(self.thread.submit(_keep, folder, count))

    def wait(self) -> None:
        """Until everything is on the disk. Raises ResourceError when something could not be written."""
        for one in self.waiting:
            one.exception()
        self._raise()

    def teardown(self) -> None:
        self.thread.shutdown(wait=True)
        self._raise()

    def _raise(self) -> None:
        done = [f for f in self.waiting if f.done()]
        self.waiting = [f for f in self.waiting if not f.done()]
        for one in done:
            if isinstance(e := one.exception(), OSError):
                raise ResourceError(
                    "a checkpoint could not be written",
                    found=e.strerror or str(e),
                    next="free space, then `proj train --resume RUN` goes on from the one before",
                )
            one.result()


def _copied(x: Any) -> Any:
    """The same with its tensors copied to the CPU, so that training can go on changing them."""
    if isinstance(x, torch.Tensor):
        return x.detach().to("cpu", copy=True)
    if isinstance(x, dict):
        return {k: _copied(v) for k, v in x.items()}
    return type(x)(map(_copied, x)) if type(x) in {list, tuple} else x


def _write(content: dict[str, Any], path: Path) -> None:
    tmp = path.with_suffix(".tmp")
    try:
        with tmp.open("wb") as f:
            torch.save(content, f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(tmp, path)
    except RuntimeError as e:  # torch's own word for a disk that is full
        raise OSError(str(e).splitlines()[0]) from None
    finally:
        _remove(tmp)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _keep(folder: Path, count: int) -> None:
    for path in sorted(folder.glob("step-*.ckpt"), reverse=True)[count:]:
        _remove(path)


def newest(run: Path) -> Path | None:
    """The checkpoint that training goes on from, or None where it has to begin."""
    folder = run / "checkpoints"
    steps = sorted(folder.glob("step-*.ckpt"))
    last = folder / LAST
    return steps[-1] if steps else last if last.is_file() else None


def settle(run: Path) -> None:
    """Training has ended: the newest checkpoint is last.ckpt, the others go."""
    path = newest(run)
    if path is not None and path.name != LAST:
        os.replace(path, path.with_name(LAST))
    _keep(run / "checkpoints", 0)


def clean(run: Path) -> None:
    """Remove what a process that died left half-written."""
    for path in (run / "checkpoints").glob("*.tmp"):
        with contextlib.suppress(OSError):
            _remove(path)


def read(path: Any) -> dict[str, Any]:
    """A checkpoint's content, on the CPU; nothing in it can run code. Raises ResourceError when it cannot be read."""
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        content["state_dict"]
    except Exception as e:  # pickle, zip and torch each raise their own
        raise ResourceError(
            f"{path} cannot be loaded",
            found=str(e).splitlines()[0] if str(e) else type(e).__name__,
            next="train again: `proj train`",
        ) from None
    return content


class Clock:
    """Says when a checkpoint is due: `minutes` after the last one or at every `steps`th step; 0: never so."""

    def __init__(self, minutes: float, steps: int) -> None:
        self.minutes, self.steps = minutes, steps
        self.last = time.monotonic()

    def due(self, step: int) -> bool:
        if self.steps and step % self.steps == 0:
            return True
        return bool(self.minutes) and self.since_s() >= 60 * self.minutes

    def since_s(self) -> float:
        return time.monotonic() - self.last

    def saved(self, step: int, start: float) -> None:
        self.last = time.monotonic()
        logger.debug("checkpoint: step {}, blocked {:.1f} ms", step, 1000 * (self.last - start))
