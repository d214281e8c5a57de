"""The LightningModule: how a network learns."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torchmetrics import MeanAbsoluteError, MetricCollection, R2Score
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from proj.train import augment, mix

if TYPE_CHECKING:
    from proj.config import Config
    from proj.preprocess.spec import Modality
    from proj.train.net import Net

Tensor = torch.Tensor
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": F.mse_loss,
    "smooth-l1": partial(F.smooth_l1_loss, beta=0.1),  # nearly the absolute error; at beta 1 it would be huber
    "huber": F.huber_loss,
}


class LitModel(pl.LightningModule):
    """Classes or values, from raw inputs or from features of a frozen backbone."""

    def __init__(
        self,
        net: Net,
        cfg: Config,
        modality: Modality,
        *,
        outputs: int,
        total_steps: int,
        weights: Tensor | None = None,
        features: bool = False,
    ) -> None:
        """`weights`: float (K,) of the classes, or None. `features`: batches hold features, not raw inputs."""
        super().__init__()
        self.net, self.cfg, self.modality, self.total_steps = net, cfg, modality, total_steps
        self.register_buffer("class_weights", weights, persistent=False)
        self.outputs, self.features = outputs, features
        self.learned = [p for p in self.parameters() if p.requires_grad]
        self.scores = MetricCollection(_values(outputs) if net.values else _classes(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """A batch, raw or of features, to logits (B, K) or standardised values (B, T)."""
        y: Tensor = self.net.head(x if self.features else self.net.encode(self.net.front(x)))
        return y

    def loss(self, y: Tensor, target: Tensor) -> Tensor:
        """`target`: class index (B,) or shares (B, K); values (B, T) in their units."""
        m = self.cfg.model
        if self.net.values:
            wanted = (target - self.net.target_mean) / self.net.target_std
            return LOSSES[m.loss](y, wanted)
        weight = self.class_weights if isinstance(self.class_weights, Tensor) else None
        return F.cross_entropy(y, target, weight=weight, label_smoothing=m.label_smoothing)

    def on_train_start(self) -> None:
        """A run that goes on in the middle of an epoch skips the batches that are done; no epoch starts for it."""
        train, loop = self.trainer.datamodule.train, self.trainer.fit_loop  # type: ignore[attr-defined]
        train.epoch, train.skip = self.current_epoch, 0
        if loop.restarted_mid_epoch:
            train.skip = loop.epoch_loop.batch_progress.current.ready

    def on_train_epoch_start(self) -> None:
        self.trainer.datamodule.train.epoch = self.current_epoch  # type: ignore[attr-defined]

    def on_train_batch_start(self, *_: Any) -> None:
        """What layers draw (dropout, drop path) is a function of (seed, step), as order and augmentation are."""
        seed = (self.cfg.seed * 1_000_003 + self.global_step) ^ 0x5DEECE66D  # other numbers than augmentation draws
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        x, y = batch
        a, g = self.cfg.augment, augment.generator(self.cfg.seed, self.global_step)
        if not self.features:
            with self._timed("augment"):
                x = augment.inputs(self.net.front(x), self.modality, a, g)
        target = F.one_hot(y, self.outputs).float() if mix.wanted(a) and not self.net.values else y
        if not self.features and x.is_floating_point():
            x, target = mix.mixed(x, target, a, g)
            f = self.net.encode(x)
        else:  # a text's ids cannot be mixed: its features are
            f, target = mix.mix(x if self.features else self.net.encode(x), target, a.mixup, g)
        return self.loss(self.net.head(f), target)

    def _timed(self, what: str) -> AbstractContextManager[Any]:
        """For `proj profile`: a part that Lightning does not know of."""
        return self.trainer.profiler.profile(what) if self._trainer is not None else nullcontext()  # type: ignore[attr-defined]

    def configure_gradient_clipping(  # type: ignore[override]
        self, _: Any, gradient_clip_val: float | None = None, **__: Any
    ) -> None:
        """Lightning refuses to clip beside a fused optimizer in mixed precision; bf16 has no scaler in its way."""
        if gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(self.learned, gradient_clip_val, foreach=True)

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        x, y = batch
        said = self(x)
        self.log("val_loss", self.loss(said, y), batch_size=len(x), on_epoch=True)
        self.scores.update(self.net.answer(said.float()), y)

    def on_validation_epoch_end(self) -> None:
        self.log_dict(self.scores.compute())
        self.scores.reset()

    def configure_optimizers(self) -> Any:
        m = self.cfg.model
        # Biases and normalisation scales are not decayed (He et al. 2019, arXiv 1812.01187).
        groups = [
            {"params": [p for p in self.learned if p.dim() > 1], "weight_decay": m.weight_decay},
            {"params": [p for p in self.learned if p.dim() <= 1], "weight_decay": 0.0},
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


def _classes(k: int) -> dict[str, Any]:
    return {
        "val_accuracy": MulticlassAccuracy(k, average="micro"),
        "val_macro_f1": MulticlassF1Score(k, average="macro"),
    }


def _values(t: int) -> dict[str, Any]:
    """Means over the targets, in whatever units: each target's own figures are in the evaluation."""
    return {"val_mae": MeanAbsoluteError(num_outputs=1), "val_r2": _R2(multioutput="uniform_average")} if t else {}


class _R2(R2Score):
    """Of a single row, which has no variance, it is nought in place of an error."""

    def compute(self) -> Tensor:
        return super().compute() if int(self.total) > 1 else torch.zeros(())
