"""What happens beside the training steps: the journal of epochs, the bar, the moving average."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from loguru import logger
from pytorch_lightning.callbacks import Callback, Checkpoint, EarlyStopping, ModelCheckpoint, WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn

from proj.train.checkpoints import BEST, STEP, Clock, Writer

if TYPE_CHECKING:
    from proj.config import Config
    from proj.console import Bar
    from proj.train.stop import Stop

EPOCHS_APART_S = 10.0  # ends of epochs that follow each other faster are not all kept


class Journal(Callback):
    """One row an epoch in metrics.csv and in the log, and the bar. Also feeds train_loss and lr to the tracker."""

    def __init__(self, path: Path, bar: Bar) -> None:
        self.path, self.bar = path, bar
        self.losses: list[torch.Tensor] = []
        self.start = 0.0
        self.note = ""
        self.rows = 0

    def state_dict(self) -> dict[str, Any]:
        losses = torch.stack(self.losses) if self.losses else torch.zeros(0)
        return {"rows": self.rows, "losses": losses, "seconds": time.monotonic() - self.start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows, self.start = state["rows"], time.monotonic() - state["seconds"]
        self.losses = list(state["losses"])

    def on_train_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        """Rows that a run wrote after the checkpoint that it goes on from will be written again."""
        self.losses = [loss.to(model.device) for loss in self.losses]  # a checkpoint's are on the CPU
        if self.path.exists():
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            _replace(self.path, "".join(lines[: self.rows + 1]) if self.rows else "")
        if trainer.global_step:
            self.bar.update(trainer.global_step)

    def on_train_epoch_start(self, *_: Any) -> None:
        self.losses, self.start = [], time.monotonic()

    def on_train_batch_end(self, _: Any, __: Any, outputs: Any, *___: Any) -> None:
        self.losses.append(outputs["loss"].detach())
        self.bar.update(note=self.note)

    def on_train_epoch_end(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        loss = torch.stack(self.losses).mean().item()
        lr = trainer.optimizers[0].param_groups[0]["lr"]
        got = {k: round(float(v), 6) for k, v in trainer.callback_metrics.items() if k.startswith("val_")}
        scores = {k: v for k, v in sorted(got.items()) if k != "val_loss"}
        row = {
            "epoch": trainer.current_epoch,
            "train_loss": round(loss, 6),
            "val_loss": got["val_loss"],
            **scores,
            "lr": f"{lr:.4g}",
            "seconds": round(time.monotonic() - self.start, 2),
        }
        with self.path.open("a", newline="", encoding="utf-8") as f:
            writer = csv.DictWriter(f, list(row))
            if not self.rows:
                writer.writeheader()
            writer.writerow(row)
        self.rows, self.losses = self.rows + 1, []
        for tracker in trainer.loggers:
            tracker.log_metrics({"train_loss": loss, "lr": lr}, step=trainer.global_step)
        first, value = next(iter(scores.items()))
        shown = f"{first.removeprefix('val_').replace('_', ' ')} {value:.3g}"
        self.note = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs} {shown}"
        figures = " ".join(f"{k} {v}" for k, v in row.items() if k != "epoch")
        logger.debug("epoch {}: {}", trainer.current_epoch, figures)


def _average(decay: float) -> Callable[[Any, Any, Any], None]:
    """A moving average that forgets its start: of n steps it weighs no more than (1 + n) / (10 + n)."""

    def update(averaged: Any, current: Any, n: Any) -> None:
        # Torch's other form, decay * a + (1 - decay) * b, moves by rounding even where a equals b: a frozen backbone.
        share = min(decay, (1 + float(n)) / (10 + float(n)))
        get_ema_multi_avg_fn(share)(averaged, current, n)  # type: ignore[no-untyped-call]

    return update


class Keeper(Checkpoint):
    """Checkpoints to resume from: when the clock says so, at the end of epochs, and when the run is asked to stop.

    Never between an epoch's last batch and the end of its validation, which Lightning would not make up for.
    """

    def __init__(self, folder: Path, writer: Writer, clock: Clock, stop: Stop, *, count: int) -> None:
        self.folder, self.writer, self.clock, self.stop, self.count = folder, writer, clock, stop, count
        self.over = False

    def state_dict(self) -> dict[str, Any]:
        return {"over": self.over}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.over = state["over"]

    def on_train_start(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        self.stop.take()
        trainer.should_stop = self.over  # it had stopped early, and does not begin another epoch

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if not trainer.is_last_batch and (self.stop.wanted or self.clock.due(trainer.global_step)):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        self.over = trainer.should_stop
        last = self.over or trainer.current_epoch + 1 == trainer.max_epochs
        if last or self.stop.wanted or self.clock.due(trainer.global_step) or self.clock.since_s() >= EPOCHS_APART_S:
            self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        start = time.monotonic()
        trainer.save_checkpoint(self.folder / STEP.format(trainer.global_step))
        self.writer.keep(self.folder, self.count)
        self.clock.saved(trainer.global_step, start)
        if self.stop.wanted:
            self.writer.wait()
            logger.info("{}: checkpoint of step {}", self.stop.wanted, trainer.global_step)
            self.stop.leave()


def _replace(path: Path, text: str) -> None:
    tmp = path.with_name(path.name + ".tmp")
    tmp.write_text(text, encoding="utf-8", newline="")
    os.replace(tmp, path)


def every(cfg: Config, out: Path, bar: Bar, writer: Writer, stop: Stop) -> list[Callback]:
    """The callbacks of a training run that writes into `out`."""
    t = cfg.trainer
    callbacks: list[Callback] = [Journal(out / "metrics.csv", bar)]
    if cfg.model.ema_decay:
        callbacks.append(WeightAveraging(multi_avg_fn=_average(cfg.model.ema_decay)))
    if t.patience:
        callbacks.append(EarlyStopping("val_loss", patience=t.patience))
    folder = out / "checkpoints"
    best = ModelCheckpoint(folder, filename=Path(BEST).stem, monitor="val_loss", enable_version_counter=False)
    clock = Clock(t.checkpoint_every_min, t.checkpoint_every_steps)
    return [*callbacks, best, Keeper(folder, writer, clock, stop, count=t.keep_checkpoints)]
