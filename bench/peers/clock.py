"""The times of a training's steps, taken in one way in every side that bench/training.py compares.

A Lightning training has `callbacks()` called by an entry point (group `pytorch_lightning.callbacks_factory`), so that
ours is measured without a line of it being changed; other loops call `Clock` themselves.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

FILE, STOP = "BENCH_CLOCK", "BENCH_STOP"  # environment: where the times go; "first": end after the first step


class Clock:
    """Steps, images and seconds of each epoch, from before its first batch is fetched to its last step's end."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []
        self.began = self.ended = self.first_step = 0.0  # of the whole training and its first step, Unix time

    def start(self) -> None:
        self.began = time.time()

    def epoch(self) -> None:
        self.epochs.append({"steps": 0, "images": 0, "seconds": 0.0})
        self._since = time.perf_counter()

    def step(self, images: int) -> None:
        """A step has ended."""
        now = self.epochs[-1]
        now["steps"] += 1
        now["images"] += images
        now["seconds"] = time.perf_counter() - self._since
        if not self.first_step:
            self.first_step = time.time()
            if os.environ.get(STOP) == "first":
                self.write()
                os._exit(0)

    def end(self) -> None:
        self.ended = time.time()

    def content(self) -> dict[str, Any]:
        return {"began": self.began, "ended": self.ended, "first_step": self.first_step, "epochs": self.epochs}

    def write(self) -> None:
        Path(os.environ[FILE]).write_text(json.dumps(self.content()), encoding="utf-8")


def callbacks() -> list[Any]:
    """A Lightning callback that keeps the times; none where nobody asked for them."""
    if FILE not in os.environ:
        return []
    import torch
    from pytorch_lightning.callbacks import Callback

    class Times(Callback):
        def __init__(self) -> None:
            self.clock = Clock()

        def setup(self, *_: Any, **__: Any) -> None:
            if not self.clock.began:
                self.clock.start()

        def on_train_epoch_start(self, *_: Any) -> None:
            self.clock.epoch()

        def on_train_batch_end(self, trainer: Any, _: Any, __: Any, batch: Any, *___: Any) -> None:
            if trainer.is_last_batch and torch.cuda.is_available():
                torch.cuda.synchronize()
            self.clock.step(len(batch[1]))

        def on_fit_end(self, *_: Any) -> None:
            self.clock.end()
            self.clock.write()

    return [Times()]
