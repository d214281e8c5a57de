"""The network that is trained and exported: an encoder, a head, and the way to an answer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from proj.preprocess.spec import ImageSpec, SeriesSpec
from proj.train import images, series, texts
from proj.train.data import FROZEN_BATCH
from proj.train.language import Language
from proj.train.pool import AttentionPool

if TYPE_CHECKING:
    from pathlib import Path

    from proj.config import Model
    from proj.train.data import View

Tensor = torch.Tensor


class Head(nn.Module):
    """Standardise, drop out, with `hidden` a layer; pool the views; one linear layer that starts at zero.

    Zero, because timm's own start for a new classifier is far off for its mobile families (cross-entropy 8 to 13).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, features: int, outputs: int, m: Model, *, views: int = 1) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.drop = nn.Dropout(m.drop_rate)
        self.hidden: nn.Module = nn.Identity()
        if m.hidden:
            self.hidden = nn.Sequential(nn.Linear(features, m.hidden), nn.GELU(), nn.Dropout(m.drop_rate))
        # After the hidden layer: each view is read by itself, and what was read is pooled.
        self.pool: nn.Module = AttentionPool(m.hidden or features) if views > 1 else nn.Identity()
        self.linear = nn.Linear(m.hidden or features, outputs)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def standardise(self, f: Tensor) -> None:
        """Set the statistics from training features (N, features) or (N, views, features)."""
        f = f.flatten(0, -2)
        self.mean.copy_(f.mean(0))
        self.std.copy_(f.std(0).clamp_min(1e-3))

    def forward(self, f: Tensor) -> Tensor:
        y: Tensor = self.linear(self.pool(self.hidden(self.drop((f - self.mean) / self.std))))
        return y


class Net(nn.Module):
    """A raw batch to logits (B, K), or to values (B, T) in standard deviations of the training split's.

    `encoder` has `width`, `front` (a raw batch to what augmentation works on) and `forward` (that to features).
    """

    temperature: Tensor
    target_mean: Tensor
    target_std: Tensor

    def __init__(
        self, encoder: nn.Module, head: Head, *, frozen: bool, target_mean: list[float], target_std: list[float]
    ) -> None:
        """`target_mean`, `target_std`: of the training split's values; empty for classes."""
        super().__init__()
        self.encoder, self.head, self.frozen = encoder, head, frozen
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("target_mean", torch.tensor(target_mean))
        self.register_buffer("target_std", torch.tensor(target_std))
        if frozen:
            self.encoder.requires_grad_(False)
        self.train()

    @property
    def values(self) -> bool:
        return self.target_mean.numel() > 0

    def train(self, mode: bool = True) -> Net:
        """A frozen encoder stays in evaluation mode: its batch statistics are weights too."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def front(self, x: Tensor) -> Tensor:
        y: Tensor = self.encoder.front(x)  # type: ignore[operator]
        return y

    def encode(self, x: Tensor) -> Tensor:
        """From what `front` gives to features (B, F) or (B, views, F)."""
        f: Tensor = self.encode_frozen(x) if self.frozen else self.encoder(x)
        return f

    def encode_frozen(self, x: Tensor) -> Tensor:
        """Without gradients, and a row's features are the same bits whatever its neighbours are.

        Convolutions choose their kernels by the batch's size, so that each batch has FROZEN_BATCH rows; the last is
        filled up with nothing.
        """
        parts = []
        with torch.no_grad():
            for part in torch.split(x, FROZEN_BATCH):
                n = len(part)
                nothing = part.new_zeros(FROZEN_BATCH - n, *part.shape[1:])
                parts.append(self.encoder(torch.cat([part, nothing]) if n < FROZEN_BATCH else part)[:n])
        return torch.cat(parts)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.encoder(self.front(x)))
        return y

    def answer(self, y: Tensor) -> Tensor:
        """From logits to calibrated probabilities, or from standard deviations to values in their units."""
        return y * self.target_std + self.target_mean if self.values else (y / self.temperature).softmax(-1)


ARCHITECTURE = "architecture"


def keep(net: Net, run: Path) -> None:
    """Leave in the run what a language model is made like, so that its checkpoint alone brings it back."""
    if isinstance(net.encoder, Language):
        net.encoder.model.config.save_pretrained(run / ARCHITECTURE)


def of_run(m: Model, view: View, run: Path) -> Net:
    """A run's network, with random weights: neither the hub nor model.weights is asked, the checkpoint holds all."""
    folder = run / ARCHITECTURE
    return build(replace(m, pretrained=False, weights=""), view, architecture=folder if folder.is_dir() else None)


def build(m: Model, view: View, *, architecture: Path | None = None) -> Net:
    """The network for a view's inputs. Raises ConfigError (no such backbone, weights that do not fit), Unreachable.

    `architecture`: a trained run's folder with what a language model is made like; its weights are random then, and
    neither the hub nor a file is asked.
    """
    spec = view.spec
    views = 1
    if isinstance(spec, ImageSpec):
        encoder: nn.Module = images.ImageEncoder(m, spec, view.mean, view.std)
        views = spec.views
    elif isinstance(spec, SeriesSpec):
        encoder = series.build(m, spec, view.mean, view.std)
    else:
        encoder = texts.build(m, spec, view.tokenizer, architecture)
    head = Head(int(encoder.width), view.outputs, m, views=views)  # type: ignore[arg-type]
    return Net(encoder, head, frozen=m.freeze, target_mean=view.target_mean, target_std=view.target_std)
