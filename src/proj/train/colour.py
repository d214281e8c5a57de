"""Brightness, contrast, saturation and hue of pictures: float (B, C, H, W) in 0..1, C 1 (grey) or 3 (RGB)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from proj.config import Augment

Tensor = torch.Tensor
LUMA = (0.299, 0.587, 0.114)  # how bright red, green and blue look (ITU-R BT.601)
# Luma and two axes of colour (YIQ): a change of hue is a turn of the two.
YIQ = (LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


def changed(x: Tensor, a: Augment, g: torch.Generator) -> Tensor:
    """A draw of each for each picture. Grey pictures have neither saturation nor hue."""
    b = len(x)
    bright, contrast = (
        1 + torch.empty(b).uniform_(-most, most, generator=g) if most else None for most in (a.brightness, a.contrast)
    )
    if x.shape[1] != 3 or not (a.saturation or a.hue_deg):
        return _tones(x, bright, contrast)
    m = torch.eye(3).expand(b, 3, 3)
    if a.saturation:
        m = saturation(1 + torch.empty(b).uniform_(-a.saturation, a.saturation, generator=g))
    if a.hue_deg:
        m = hue(torch.empty(b).uniform_(-a.hue_deg, a.hue_deg, generator=g)) @ m
    # Contrast pulls towards a grey, which neither saturation nor hue changes: one matrix and one number do all four.
    bright, contrast = (torch.ones(b) if v is None else v for v in (bright, contrast))
    lift = (bright * (1 - contrast)).to(x.device) * x.mean((1, 2, 3)) if a.contrast else x.new_zeros(b)
    return linear(x, (m * (bright * contrast)[:, None, None]).to(x.device), lift).clamp_(0, 1)


def luma(x: Tensor) -> Tensor:
    """As grey pictures (B, 1, H, W)."""
    if x.shape[1] == 1:
        return x
    return (x[:, :1] * LUMA[0]).add_(x[:, 1:2], alpha=LUMA[1]).add_(x[:, 2:], alpha=LUMA[2])


def _tones(x: Tensor, bright: Tensor | None, contrast: Tensor | None) -> Tensor:
    """Factors (B,) of the brightness and of the distance to the picture's mean."""
    if bright is None and contrast is None:
        return x
    if bright is not None:
        x = x * bright.to(x.device)[:, None, None, None]
    if contrast is not None:
        mean = x.mean((1, 2, 3), keepdim=True)
        x = (x - mean).mul_(contrast.to(x.device)[:, None, None, None]).add_(mean)
    return x.clamp_(0, 1)


def linear(x: Tensor, m: Tensor, lift: Tensor) -> Tensor:
    """Each pixel times its picture's matrix (B, 3, 3), plus its number (B,).

    By planes, not as a product of matrices: those lose digits where a GPU may use TF32.
    """
    x = x.contiguous()
    y = torch.empty_like(x)
    for i in range(3):
        row = m[:, i, :, None, None]
        plane = torch.mul(x[:, 0], row[:, 0], out=y[:, i])
        plane.addcmul_(x[:, 1], row[:, 1]).addcmul_(x[:, 2], row[:, 2]).add_(lift[:, None, None])
    return y


def saturation(factor: Tensor) -> Tensor:
    """Matrices (B, 3, 3) that scale the distance to the pixel's own grey."""
    grey = torch.tensor(LUMA).expand(3, 3)
    f = factor[:, None, None]
    return torch.eye(3) * f + grey * (1 - f)


def hue(degrees: Tensor) -> Tensor:
    """Matrices (B, 3, 3) that turn the colours about grey and keep the luma."""
    yiq = torch.tensor(YIQ, dtype=torch.float64)
    angle = degrees.double() * (math.pi / 180)
    turn = torch.zeros(len(degrees), 3, 3, dtype=torch.float64)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = angle.cos()
    turn[:, 1, 2] = -angle.sin()
    turn[:, 2, 1] = angle.sin()
    return (yiq.inverse() @ turn @ yiq).float()
