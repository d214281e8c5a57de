"""Encoders of measurements over time: a 1-D convolutional network and an LSTM, each with what a window sums up to.

Forces and torques have heavy tails: a collision is a hundred times a normal motion, and both matter. So the networks
see every channel also on a signed logarithmic scale, and without its sign, and as what changed since the step before.
Beside what they learn stand each channel's strength, peak, spread and unrest on that scale: from those a linear head
tells much already in a few dozen windows, where a network alone learns the windows by heart.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

import torch
from torch import nn

from proj.errors import ConfigError

if TYPE_CHECKING:
    from proj.config import Model
    from proj.preprocess.spec import SeriesSpec

Tensor = torch.Tensor

FINEST = 0.01  # of a channel's standard deviation: below it the logarithmic scale is linear
MOST = 1e6  # standard deviations; what is beyond would overflow when it is squared
FAR = 5.0  # standard deviations: what is beyond, networks see on the logarithmic scale alone
STILL = 0.01  # a window that moves less than this share of the training split is divided by that, not by its own
SIGHTS = 4  # numbers that a network sees of each channel and step
SUMMARIES = 4  # numbers that a channel's whole window sums up to
START = 0.3  # weight of a network's features at the start; summaries have 1
LEFT_OUT = 0.5  # share of the rows, in training, in which summaries must do without the network


class Encoder(nn.Module):
    """Raw series float32 (B, T, C) to features (B, `width`): those of `steps`, a network over time, and summaries."""

    mean: Tensor
    std: Tensor

    def __init__(self, steps: nn.Module, features: int, spec: SeriesSpec, mean: list[float], std: list[float]) -> None:
        """`steps`: (B, T, SIGHTS * C) to (B, `features`). `mean`, `std`: of each channel, training split."""
        super().__init__()
        self.own = spec.normalise == "window"
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor([s if s > 0 else 1.0 for s in std], dtype=torch.float32))
        self.steps = steps
        self.width = features + SUMMARIES * len(spec.channels)
        self.even = nn.BatchNorm1d(self.width)
        nn.init.constant_(self.even.weight[:features], START)
        self.leave_out = nn.Dropout1d(LEFT_OUT)
        self.features = features

    def front(self, x: Tensor) -> Tensor:
        """Standardised, by the training split or each window by itself: float32 (B, T, C)."""
        z = ((x.float() - self.mean) / self.std).clamp(-MOST, MOST)
        if not self.own:
            return z
        z = z - z.mean(1, keepdim=True)
        return z / z.square().mean(1, keepdim=True).sqrt().clamp_min(STILL)

    def forward(self, z: Tensor) -> Tensor:
        # Whether a force pushes or pulls is seen from its own zero. A window's own scale has none.
        x = z if self.own else z + self.mean / self.std
        f = self.even(torch.cat([self.steps(sights(z, x)), summaries(x)], 1))
        learned, summed = f[:, : self.features], f[:, self.features :]
        return torch.cat([self.leave_out(learned[:, None])[:, 0], summed], 1)


def compressed(x: Tensor) -> Tensor:
    """Signed logarithm, linear below FINEST; `x` in standard deviations."""
    return x.sign() * (x.abs() / FINEST).log1p()


def changes(x: Tensor) -> Tensor:
    """(B, T, C): each step less the one before it; 0 for the first."""
    return x - torch.cat([x[:, :1], x[:, :-1]], 1)


def sights(z: Tensor, x: Tensor) -> Tensor:
    """(B, T, SIGHTS * C) of standardised `z` and of `x`, the same from its own zero."""
    signed = compressed(x)
    return torch.cat([z.clamp(-FAR, FAR), signed, signed.abs(), compressed(changes(x)).abs()], 2)


def summaries(x: Tensor) -> Tensor:
    """Of each channel of (B, T, C): mean strength, peak, spread and mean change, (B, SUMMARIES * C)."""
    spread = (x - x.mean(1, keepdim=True)).square().mean(1)
    # A still channel's root would have no slope. Not `spread + 1e-8`: ONNX's optimizer takes that for + 0.
    parts = [x.abs().mean(1), x.abs().amax(1), spread.clamp_min(1e-6).sqrt(), changes(x).abs().mean(1)]
    return compressed(torch.cat(parts, 1))


class Convolutions(nn.Module):
    """(B, T, C) to the mean and the maximum over time (B, 2 width) of `layers` convolutions, each looking wider."""

    def __init__(self, channels: int, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(width if i else channels, width, 3, padding=2**i, dilation=2**i, bias=False),
                nn.BatchNorm1d(width),
                nn.ReLU(),
            )
            for i in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        for i, layer in enumerate(self.layers):
            x = x + layer(x) if i else layer(x)
        return torch.cat([x.mean(2), x.amax(2)], 1)


class Recurrent(nn.Module):
    """(B, T, C) to an LSTM's last state and its mean over time (B, 2 width)."""

    def __init__(self, channels: int, width: int, layers: int) -> None:
        super().__init__()
        self.even = nn.LayerNorm(channels)
        self.lstm = nn.LSTM(channels, width, layers, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(self.even(x))
        return torch.cat([states[:, -1], states.mean(1)], 1)


NETWORKS = {"convolutions": Convolutions, "lstm": Recurrent}


def build(m: Model, spec: SeriesSpec, mean: list[float], std: list[float]) -> Encoder:
    """The encoder that `m` names, with random weights. `mean`, `std`: of each channel, in its unit, training split.

    Raises ConfigError for an unknown backbone, and where weights from elsewhere are asked for: there are none.
    """
    name = m.backbone or m.series
    if name not in NETWORKS:
        close = get_close_matches(name, NETWORKS, n=1)
        raise ConfigError(
            f"no network for series is called {name!r}",
            found=f"there are {', '.join(NETWORKS)}",
            next=f"did you mean model.series={close[0]}?" if close else "choose one: model.series=convolutions",
        )
    if m.pretrained or m.weights:
        raise ConfigError("there are no pretrained weights for series", next="train from random weights: model=small")
    network = NETWORKS[name](SIGHTS * len(spec.channels), m.width, m.layers)
    return Encoder(network, 2 * m.width, spec, mean, std)
