"""Two things of a batch become one, and their targets in the same shares: mixup and CutMix.

`y` is float: shares of the classes (B, K), or, for mixup alone, values (B, T). `x` and `y` come back as new tensors, or
as they are where nothing is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from proj.errors import ConfigError

if TYPE_CHECKING:
    from proj.config import Augment
    from proj.preprocess.spec import Modality

Tensor = torch.Tensor


def check(a: Augment, modality: Modality, *, values: bool, features: bool) -> None:
    """Raise ConfigError where a piece of another input means nothing. `features`: the head learns from cached ones."""
    if not a.cutmix:
        return
    if modality != "image":
        raise ConfigError(
            "augment.cutmix is for pictures",
            found=f"the task's inputs are of kind {modality}",
            next="set augment.cutmix=0; augment.mixup works on every kind",
        )
    if values:
        raise ConfigError(
            "augment.cutmix is for classes",
            found="the task predicts values, of which a piece of the picture holds no known share",
            next="set augment.cutmix=0; augment.mixup works on values",
        )
    if features:
        raise ConfigError(
            "augment.cutmix needs pictures in every step",
            found="model.freeze=true with model.cache=true: the head learns from cached features",
            next="set augment.cutmix=0, model.cache=false or model.freeze=false; augment.mixup works on features",
        )


def wanted(a: Augment) -> bool:
    """Whether classes must come as shares (B, K) in place of indices."""
    return bool(a.mixup or a.cutmix)


def mixed(x: Tensor, y: Tensor, a: Augment, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Raw inputs, by mixup or CutMix; where `a` has both, one of the two is drawn for the batch."""
    cut = bool(a.cutmix) and (not a.mixup or float(torch.rand((), generator=g)) < 0.5)
    return cutmix(x, y, a.cutmix, g) if cut else mix(x, y, a.mixup, g)


def mix(x: Tensor, y: Tensor, alpha: float, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al. 2018, arXiv 1710.09412) of inputs or features of any shape; alpha 0 changes nothing."""
    if not alpha:
        return x, y
    lam = beta(len(x), alpha, g).to(x.device)
    lam = torch.maximum(lam, 1 - lam)
    other = torch.randperm(len(x), generator=g).to(x.device)
    lx = lam.view(-1, *[1] * (x.dim() - 1))
    ly = lam[:, None]
    return (x * lx).add_(x[other].mul_(1 - lx)), y * ly + y[other] * (1 - ly)


def cutmix(x: Tensor, y: Tensor, alpha: float, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """CutMix (Yun et al. 2019, arXiv 1905.04899): a box of another picture, in the same place; alpha 0: none.

    `x`: float (B, C, H, W), or (B, V, C, H, W), where all views of a thing get the same box. The other's share in `y`
    is the box's share of the area, counted in pixels. Boxes reach beyond the edge and are cut off there.
    """
    if not alpha:
        return x, y
    b, (h, w) = len(x), x.shape[-2:]
    side = (1 - beta(b, alpha, g)).sqrt()
    rows, columns = _span(h, side, g), _span(w, side, g)
    other = torch.randperm(b, generator=g).to(x.device)
    share = (rows.sum(1) * columns.sum(1) / (h * w)).to(x.device)[:, None]
    box = (rows[:, :, None] & columns[:, None, :]).to(x.device, x.dtype).view(b, *[1] * (x.dim() - 3), h, w)
    x = x.contiguous()
    x = torch.lerp(x, x[other], box)  # 0 and 1 give the one or the other to the bit, sooner than a selection
    return x, y * (1 - share) + y[other] * share


def _span(n: int, share: Tensor, g: torch.Generator) -> Tensor:
    """Which of `n` pixels lie in a part of that share about a random one: bool (B, n)."""
    length = (share * n).round()
    start = torch.randint(n, (len(share),), generator=g) - (length / 2).floor()
    at = torch.arange(n)
    return (at >= start[:, None]) & (at < (start + length)[:, None])


def beta(b: int, alpha: float, g: torch.Generator) -> Tensor:
    """From Beta(alpha, alpha), of two Gamma draws each: torch's own distributions take no generator."""
    share = torch._standard_gamma(torch.full((2, b), float(alpha)), generator=g)
    return share[0] / share.sum(0)
