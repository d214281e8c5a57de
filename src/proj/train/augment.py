"""Random changes to whole training batches, on the training device."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from proj.preprocess.text import PAD

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
    """Flip, turn, shift, scale, brightness, contrast. `x`: float (B, C, H, W) in 0..1, and so the result."""
    b = len(x)

    def uniform(low: float, high: float) -> Tensor:
        return (torch.rand(b, generator=g) * (high - low) + low).to(x.device)

    if a.flip:
        mirrored = torch.rand(b, generator=g).to(x.device) < 0.5
        x = torch.where(mirrored[:, None, None, None], x.flip(-1), x)
    if a.rotate_deg or a.shift or a.scale:
        turn = uniform(-a.rotate_deg, a.rotate_deg) * (math.pi / 180)
        zoom = 1 / uniform(1 - a.scale, 1 + a.scale)
        dx, dy = (uniform(-a.shift, a.shift) * 2 for _ in range(2))  # the grid runs from -1 to 1
        aspect = x.shape[-1] / x.shape[-2]
        cos, sin = turn.cos() * zoom, turn.sin() * zoom
        theta = torch.stack([torch.stack([cos, -sin / aspect, dx], 1), torch.stack([sin * aspect, cos, dy], 1)], 1)
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        # Drawings lie on black; photos go on beyond their edge.
        x = F.grid_sample(x, grid, padding_mode="zeros" if x.shape[1] == 1 else "reflection", align_corners=False)
    if a.brightness:
        x = x * (1 + uniform(-a.brightness, a.brightness))[:, None, None, None]
    if a.contrast:
        mean = x.mean((1, 2, 3), keepdim=True)
        x = (x - mean) * (1 + uniform(-a.contrast, a.contrast))[:, None, None, None] + mean
    return x.clamp(0, 1) if a.brightness or a.contrast else x


def mix(x: Tensor, y: Tensor, alpha: float, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al. 2018, arXiv 1710.09412). `y`: float targets (B, K) or (B, T); alpha 0 changes nothing."""
    if not alpha:
        return x, y
    # A Beta draw from two Gamma draws; torch's own distributions take no generator.
    share = torch._standard_gamma(torch.full((2, len(x)), alpha), generator=g)
    lam = (share[0] / share.sum(0)).to(x.device)
    lam = torch.maximum(lam, 1 - lam)
    other = torch.randperm(len(x), generator=g).to(x.device)
    lx = lam.view(-1, *[1] * (x.dim() - 1))
    ly = lam[:, None]
    return x * lx + x[other] * (1 - lx), y * ly + y[other] * (1 - ly)
