"""RandAugment (Cubuk et al. 2020, arXiv 1909.13719): operations drawn for each picture, all of one strength.

Pictures are float (B, C, H, W) in 0..1, C 1 (grey) or 3 (RGB). Those that drew the same family of operations are
changed together. The operations and their greatest strengths are the paper's, as Pillow defines them; what a turn or
shift leaves open is filled as in `geometry.sample`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import IntEnum, auto

import torch

from proj.train import colour, geometry

Tensor = torch.Tensor


class Kind(IntEnum):
    IDENTITY = 0
    ROTATE = auto()
    SHEAR_X = auto()
    SHEAR_Y = auto()
    TRANSLATE_X = auto()
    TRANSLATE_Y = auto()
    BRIGHTNESS = auto()
    CONTRAST = auto()
    COLOUR = auto()
    SHARPNESS = auto()
    POSTERIZE = auto()
    SOLARIZE = auto()
    AUTOCONTRAST = auto()
    EQUALIZE = auto()


# At magnitude 1.
TURN = 30 * math.pi / 180
SHEAR = 0.3
TRANSLATE = 0.45  # of the width or height
BLEND = 0.9  # brightness, contrast, colour, sharpness: a factor from 0.1 to 1.9
BITS = 4  # that posterize takes away


def changed(x: Tensor, operations: int, magnitude: float, g: torch.Generator) -> Tensor:
    """`operations` a picture, one after another, each of `magnitude` 0..1 in a random direction."""
    for _ in range(operations):
        kind = torch.randint(len(Kind), (len(x),), generator=g)
        by = (torch.randint(2, (len(x),), generator=g) * 2 - 1) * magnitude
        x = apply(x, kind, by)
    return x


def apply(x: Tensor, kind: Tensor, by: Tensor) -> Tensor:
    """`kind`: int (B,) of `Kind`; `by`: float (B,) in -1..1; both on the CPU. `x` itself stays as it is."""
    x = x.contiguous()  # one plane of colour after another: up to twice as fast
    y = x.clone()
    for kinds, change in FAMILIES:
        rows = torch.isin(kind, torch.tensor(kinds)).nonzero()[:, 0]
        if len(rows):
            at = rows.to(x.device)
            y.index_copy_(0, at, change(x.index_select(0, at), kind[rows], by[rows]))
    return y


def _bend(x: Tensor, kind: Tensor, by: Tensor) -> Tensor:
    """Turn, shear, shift."""
    aspect = x.shape[-1] / x.shape[-2]
    turn = torch.where(kind == Kind.ROTATE, by * TURN, 0.0)
    theta = torch.zeros(len(x), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = turn.cos()
    theta[:, 0, 1] = (torch.where(kind == Kind.SHEAR_X, by * SHEAR, 0.0) - turn.sin()) / aspect
    theta[:, 1, 0] = (torch.where(kind == Kind.SHEAR_Y, by * SHEAR, 0.0) + turn.sin()) * aspect
    # The grid runs from -1 to 1.
    theta[:, 0, 2] = torch.where(kind == Kind.TRANSLATE_X, by * TRANSLATE * 2, 0.0)
    theta[:, 1, 2] = torch.where(kind == Kind.TRANSLATE_Y, by * TRANSLATE * 2, 0.0)
    return geometry.bent(x, theta)


def _blend(x: Tensor, kind: Tensor, by: Tensor) -> Tensor:
    """Away from or towards black, the picture's mean grey, each pixel's own grey."""
    grey = colour.luma(x)
    kind = kind.to(x.device)[:, None, None, None]
    level = torch.where(kind == Kind.CONTRAST, grey.mean((2, 3), keepdim=True), 0.0)
    return torch.lerp(torch.where(kind == Kind.COLOUR, grey, level), x, _factor(by, x)).clamp_(0, 1)


def _sharpen(x: Tensor, _: Tensor, by: Tensor) -> Tensor:
    """Away from or towards the picture under Pillow's smoothing kernel: ones about a five. The edge stays."""
    if min(x.shape[-2:]) < 3:
        return x
    inner = x[..., 1:-1, 1:-1]
    rows = x[..., :-2, :] + x[..., 1:-1, :] + x[..., 2:, :]
    smooth = (rows[..., :-2] + rows[..., 1:-1]).add_(rows[..., 2:]).add_(inner, alpha=4).div_(13)
    y = x.clone()
    y[..., 1:-1, 1:-1] = torch.lerp(smooth, inner, _factor(by, x)).clamp_(0, 1)
    return y


def _posterize(x: Tensor, _: Tensor, by: Tensor) -> Tensor:
    """Fewer of the eight bits of each value."""
    step = (2.0 ** (by.abs() * BITS).round()).to(x.device)[:, None, None, None]
    return (x * 255).round_().div_(step).floor_().mul_(step).div_(255)


def _solarize(x: Tensor, _: Tensor, by: Tensor) -> Tensor:
    """What is lighter than a threshold becomes its negative."""
    threshold = ((1 - by.abs()) * (256 / 255)).to(x.device)[:, None, None, None]  # above white at strength 0
    return torch.lerp(x, 1 - x, (x >= threshold).to(x.dtype))


def _autocontrast(x: Tensor, _: Tensor, __: Tensor) -> Tensor:
    """Each channel from its own darkest to its lightest value becomes 0..1; a flat one stays."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    spread = high - low
    return torch.where(spread > 0, ((x - low) / spread.clamp_min(1e-12)).clamp_(0, 1), x)


def _equalize(x: Tensor, _: Tensor, __: Tensor) -> Tensor:
    """Each channel's 256 levels so that each is about as frequent, by Pillow's integer rule; a flat one stays."""
    planes = x.shape[0] * x.shape[1]
    levels = (x * 255).round_().long().clamp_(0, 255).view(planes, -1)
    own = torch.arange(planes, device=x.device)[:, None] * 256
    count = torch.bincount((levels + own).view(-1), minlength=planes * 256).view(planes, 256)
    last = count.gather(1, levels.amax(1, keepdim=True))  # of the lightest level that occurs
    step = (levels.shape[1] - last) // 255
    before = count.cumsum(1) - count
    new = ((before + step // 2) // step.clamp_min(1)).clamp_(0, 255)
    y = new.gather(1, levels).view(x.shape).to(x.dtype) / 255
    return torch.where((step > 0).view(*x.shape[:2], 1, 1), y, x)


def _factor(by: Tensor, x: Tensor) -> Tensor:
    return (1 + by * BLEND).to(x.device)[:, None, None, None]


FAMILIES: tuple[tuple[tuple[Kind, ...], Callable[[Tensor, Tensor, Tensor], Tensor]], ...] = (
    ((Kind.ROTATE, Kind.SHEAR_X, Kind.SHEAR_Y, Kind.TRANSLATE_X, Kind.TRANSLATE_Y), _bend),
    ((Kind.BRIGHTNESS, Kind.CONTRAST, Kind.COLOUR), _blend),
    ((Kind.SHARPNESS,), _sharpen),
    ((Kind.POSTERIZE,), _posterize),
    ((Kind.SOLARIZE,), _solarize),
    ((Kind.AUTOCONTRAST,), _autocontrast),
    ((Kind.EQUALIZE,), _equalize),
)
