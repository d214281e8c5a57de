"""What happens beside the training steps: the journal of epochs, the bar, the moving average."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from loguru import logger
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint, WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn

if TYPE_CHECKING:
    from proj.config import Config
    from proj.console import Bar


class Journal(Callback):
    """One row an epoch in metrics.csv and in the log, and the bar. Also feeds train_loss and lr to the tracker."""

    def __init__(self, path: Path, bar: Bar) -> None:
        self.path, self.bar = path, bar
        self.losses: list[torch.Tensor] = []
        self.start = 0.0
        self.note = ""

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
        new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as f:
            writer = csv.DictWriter(f, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)
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


def every(cfg: Config, out: Path, bar: Bar) -> list[Callback]:
    """The callbacks of a training run that writes into `out`."""
    callbacks: list[Callback] = [Journal(out / "metrics.csv", bar)]
    if cfg.model.ema_decay:
        callbacks.append(WeightAveraging(multi_avg_fn=_average(cfg.model.ema_decay)))
    if cfg.trainer.patience:
        callbacks.append(EarlyStopping("val_loss", patience=cfg.trainer.patience))
    folder = out / "checkpoints"
    best = ModelCheckpoint(folder, filename="best", monitor="val_loss", enable_version_counter=False)
    # Not `save_last`: that writes only where the other did too, and so is the last that was better.
    last = ModelCheckpoint(folder, filename="last", enable_version_counter=False)
    return [*callbacks, best, last]
