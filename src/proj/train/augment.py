"""Random changes to whole training batches, on the training device."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from proj.preprocess.spec import PAD
from proj.train import colour, geometry, randaugment

if TYPE_CHECKING:
    from proj.config import Augment
    from proj.preprocess.spec import Modality

Tensor = torch.Tensor


def generator(seed: int, step: int) -> torch.Generator:
    """Randomness that is a function of (seed, step) alone, so that a run can go on from any step."""
    g = torch.Generator()
    g.manual_seed((seed * 1_000_003 + step) % 2**63)
    return g


def inputs(x: Tensor, modality: Modality, a: Augment, g: torch.Generator) -> Tensor:
    """A training batch, as an encoder's `front` gives it, changed at random. Shape and type stay."""
    if modality == "text":
        return ids(x, a, g)
    if modality == "series":
        return series(x, a, g)
    # In mixed precision the places of pixels would be rounded to eight bits.
    with torch.autocast(x.device.type, enabled=False):
        # Each view of a thing is a picture of its own.
        return pictures(x.flatten(0, 1), a, g).reshape(x.shape) if x.dim() == 5 else pictures(x, a, g)


def ids(x: Tensor, a: Augment, g: torch.Generator) -> Tensor:
    """Leave out ids: they become PAD. `x`: int (B, ids); a text's first id stays, so that none is empty."""
    if not a.token_drop:
        return x
    gone = (torch.rand(x.shape, generator=g) < a.token_drop).to(x.device)
    gone[:, 0] = False
    return x.masked_fill(gone, PAD)


def series(x: Tensor, a: Augment, g: torch.Generator) -> Tensor:
    """Shift in time, amplitude, noise. `x`: float (B, steps, channels), standardised."""
    b, steps, channels = x.shape
    if a.time_shift:
        most = round(a.time_shift * steps)
        by = torch.randint(-most, most + 1, (b, 1), generator=g)
        at = (torch.arange(steps) + by).clamp(0, steps - 1).to(x.device)
        x = x.gather(1, at[..., None].expand(-1, -1, channels))
    if a.amplitude:
        factor = 1 + (torch.rand((b, 1, channels), generator=g) * 2 - 1) * a.amplitude
        x = x * factor.to(x.device)
    if a.jitter:
        x = x + (torch.randn(x.shape, generator=g) * a.jitter).to(x.device)
    return x


def pictures(x: Tensor, a: Augment, g: torch.Generator) -> Tensor:
    """Place, colours, RandAugment, what is erased, in this order. `x`: float (B, C, H, W) in 0..1, and so the result.

    `x` itself stays as it is.
    """
    placed = bool(a.rotate_deg or a.shift or a.scale)
    if a.flip:
        # Sampling works on planes of colour, one after another: the copy is made so at once.
        x = x.clone(memory_format=torch.contiguous_format if placed or a.crop else torch.preserve_format)
        mirror_(x, (torch.rand(len(x), generator=g) < 0.5).nonzero()[:, 0])
    if placed or a.crop:
        theta = geometry.drawn(len(x), x.shape[-1] / x.shape[-2], a, g)
        theta = geometry.cropped(theta, a.crop, g) if a.crop else theta
        x = geometry.bent(x, theta, inside=not placed)
    x = colour.changed(x, a, g)
    x = randaugment.changed(x, a.randaugment, a.randaugment_magnitude, g)
    return erased(x, a.grid_dropout, g) if a.grid_dropout else x


def mirror_(x: Tensor, rows: Tensor) -> None:
    """Turn these rows about, left to right, in place. On a CPU one by one: all at once takes seven times as long."""
    if x.device.type == "cpu":
        for i in rows.tolist():
            x[i] = x[i].flip(-1)
    else:
        rows = rows.to(x.device)
        x.index_copy_(0, rows, x[rows].flip(-1))


def erased(x: Tensor, share: float, g: torch.Generator) -> Tensor:
    """That share of each picture's area goes, as a grid of boxes (GridMask, Chen et al. 2020, arXiv 2001.04086).

    The grid's size and place are drawn for each picture. Whole periods fit, so that the share is exact but for rounding
    to pixels. Drawings turn black there, photos mid-grey.
    """
    b, _, h, w = x.shape
    periods = torch.randint(2, max(2, min(7, min(h, w) // 4)) + 1, (b,), generator=g)  # along the shorter side
    gone = []
    for n in (h, w):
        count = (periods * (n / min(h, w))).round()
        at = (torch.arange(n) + 0.5) / n * count[:, None] + torch.rand(b, 1, generator=g)
        gone.append((at % 1 < math.sqrt(share)).to(x.device))
    boxes = (gone[0][:, :, None] & gone[1][:, None, :])[:, None].to(x.dtype)
    left = x.new_tensor(0.0 if x.shape[1] == 1 else 0.5)
    return torch.lerp(x.contiguous(), left, boxes)  # a selection takes twice as long
