"""The LightningModule: how a network learns."""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from proj.config import Config
from proj.train import augment
from proj.train.net import Net

Tensor = torch.Tensor


class LitModel(pl.LightningModule):
    """Classification on uint8 pictures, or on features of a frozen backbone."""

    def __init__(self, net: Net, cfg: Config, *, outputs: int, total_steps: int, weights: Tensor | None) -> None:
        """`weights`: float (K,) of the classes, or None."""
        super().__init__()
        self.net, self.cfg, self.total_steps = net, cfg, total_steps
        self.register_buffer("class_weights", weights, persistent=False)
        self.outputs = outputs
        self.scores = MetricCollection(
            {
                "val_accuracy": MulticlassAccuracy(outputs, average="micro"),
                "val_macro_f1": MulticlassF1Score(outputs, average="macro"),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """uint8 pictures (B, H, W, C), or features float (B, F), to logits (B, K)."""
        return self.logits(self.net.pixels(x) if x.dtype == torch.uint8 else x)

    def logits(self, x: Tensor) -> Tensor:
        """Float pixels in 0..1 (B, C, h, w), or features (B, F), to logits (B, K)."""
        if x.dim() == 4:
            x = self.net.encode_frozen(x) if self.net.frozen else self.net.encode(x)
        y: Tensor = self.net.head(x)
        return y

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """`y`: class index (B,) or shares (B, K)."""
        weight = self.class_weights if isinstance(self.class_weights, Tensor) else None
        return F.cross_entropy(logits, y, weight=weight, label_smoothing=self.cfg.model.label_smoothing)

    def on_train_epoch_start(self) -> None:
        self.trainer.datamodule.train.epoch = self.current_epoch  # type: ignore[attr-defined]

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        x, y = batch
        a, g = self.cfg.augment, augment.generator(self.cfg.seed, self.global_step)
        if x.dtype == torch.uint8:
            x = augment.pictures(self.net.pixels(x), a, g)
        target = F.one_hot(y, self.outputs).float() if a.mixup else y
        x, target = augment.mix(x, target, a.mixup, g)
        return self.loss(self.logits(x), target)

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        x, y = batch
        logits = self(x)
        self.log("val_loss", self.loss(logits, y), batch_size=len(x), on_epoch=True)
        self.scores.update(logits, y)

    def on_validation_epoch_end(self) -> None:
        self.log_dict(self.scores.compute())
        self.scores.reset()

    def configure_optimizers(self) -> Any:
        m = self.cfg.model
        learned = [p for p in self.parameters() if p.requires_grad]
        # Biases and normalisation scales are not decayed (He et al. 2019, arXiv 1812.01187).
        groups = [
            {"params": [p for p in learned if p.dim() > 1], "weight_decay": m.weight_decay},
            {"params": [p for p in learned if p.dim() <= 1], "weight_decay": 0.0},
        ]
        # One fused step per tensor list; on the CPU too it saves a third of a small model's time.
        optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=m.lr, fused=True)
        warmup = max(1, round(m.warmup_share * self.total_steps))

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            done = (step - warmup) / max(1, self.total_steps - warmup)
            return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
