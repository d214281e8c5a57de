"""`proj.train.augment`: each change does what its name says, and (seed, step) alone decides it."""

from __future__ import annotations

import pytest
import torch

from proj.config import Augment
from proj.train import augment


def batch(b: int = 64, c: int = 3, h: int = 12, w: int = 16) -> torch.Tensor:
    return torch.rand(b, c, h, w, generator=torch.Generator().manual_seed(0))


EACH = [
    Augment(flip=True),
    Augment(rotate_deg=20),
    Augment(shift=0.2),
    Augment(scale=0.3),
    Augment(brightness=0.4),
    Augment(contrast=0.4),
]


def test_nothing_asked_for_changes_nothing() -> None:
    x = batch()
    assert torch.equal(augment.pictures(x, Augment(), augment.generator(0, 0)), x)


@pytest.mark.parametrize("a", EACH, ids=lambda a: next(k for k, v in vars(a).items() if v))
@pytest.mark.parametrize("channels", [1, 3])
def test_each_change_changes_and_keeps_shape_and_range(a: Augment, channels: int) -> None:
    x = batch(c=channels)
    y = augment.pictures(x, a, augment.generator(0, 0))
    assert y.shape == x.shape
    assert not torch.equal(y, x)
    assert 0 <= float(y.min()) <= float(y.max()) <= 1


def test_seed_and_step_alone_decide() -> None:
    a = Augment(flip=True, rotate_deg=10, shift=0.1, scale=0.1, brightness=0.1, contrast=0.1)
    x = batch()
    first = augment.pictures(x, a, augment.generator(3, 5))
    torch.rand(100)  # other randomness in between
    assert torch.equal(augment.pictures(x, a, augment.generator(3, 5)), first)
    assert not torch.equal(augment.pictures(x, a, augment.generator(3, 6)), first)
    assert not torch.equal(augment.pictures(x, a, augment.generator(4, 5)), first)


def test_a_flip_mirrors_about_half() -> None:
    x = batch(400)
    y = augment.pictures(x, Augment(flip=True), augment.generator(0, 0))
    mirrored = torch.tensor([torch.equal(b, a.flip(-1)) for a, b in zip(x, y, strict=True)])
    kept = torch.tensor([torch.equal(b, a) for a, b in zip(x, y, strict=True)])
    assert bool((mirrored ^ kept).all())
    assert 150 < int(mirrored.sum()) < 250


def test_a_shift_moves_by_at_most_its_share() -> None:
    x = torch.zeros(200, 1, 21, 41)
    x[:, :, 10, 20] = 1
    y = augment.pictures(x, Augment(shift=0.1), augment.generator(0, 0))
    mass = y[:, 0].sum((1, 2))
    rows = (y[:, 0].sum(2) * torch.arange(21)).sum(1) / mass - 10
    columns = (y[:, 0].sum(1) * torch.arange(41)).sum(1) / mass - 20
    for moved, side in ((rows, 21), (columns, 41)):
        assert 0.8 * 0.1 * side < float(moved.abs().max()) <= 0.1 * side + 1e-3


def test_a_turn_does_not_shear_a_picture_that_is_not_square() -> None:
    # A disc stays a disc: turned about its middle by any angle it covers the same pixels.
    yy, xx = torch.meshgrid(torch.arange(41) - 20, torch.arange(81) - 40, indexing="ij")
    disc = ((yy**2 + xx**2) < 15**2).float().expand(20, 1, 41, 81)
    y = augment.pictures(disc, Augment(rotate_deg=90), augment.generator(0, 0))
    assert float((y - disc).abs().mean()) < 0.01


@pytest.mark.parametrize(("scale", "low", "high"), [(0.3, 0.7, 1.3), (0.1, 0.9, 1.1)])
def test_a_scale_is_a_factor_of_the_size(scale: float, low: float, high: float) -> None:
    x = torch.zeros(300, 1, 60, 60)
    x[:, :, 20:40, 20:40] = 1
    y = augment.pictures(x, Augment(scale=scale), augment.generator(0, 0))
    sides = y.sum((1, 2, 3)).sqrt() / 20
    assert low - 0.03 < float(sides.min()) < low + 0.1
    assert high - 0.1 < float(sides.max()) < high + 0.03


def test_brightness_and_contrast_are_one_number_a_picture() -> None:
    x = batch(50) * 0.4 + 0.2
    bright = augment.pictures(x, Augment(brightness=0.3), augment.generator(0, 0)) / x
    assert float(bright.flatten(1).std(1).max()) < 1e-4
    assert 0.7 <= float(bright.min()) < 0.8
    assert 1.2 < float(bright.max()) <= 1.3 + 1e-5
    contrast = augment.pictures(x, Augment(contrast=0.3), augment.generator(0, 0))
    assert torch.allclose(contrast.mean((1, 2, 3)), x.mean((1, 2, 3)), atol=1e-3)


@pytest.mark.parametrize("shape", [(32, 3, 8, 8), (32, 20)])
def test_mixup_mixes_inputs_and_targets_by_the_same_share(shape: tuple[int, ...]) -> None:
    x, y = torch.zeros(shape), torch.eye(32)
    x += torch.arange(32.0).view(-1, *[1] * (len(shape) - 1))  # a picture's value is its number
    mixed, target = augment.mix(x, y, 0.4, augment.generator(0, 0))
    assert mixed.shape == x.shape
    assert target.shape == (32, 32)
    assert torch.allclose(target.sum(1), torch.ones(32))
    assert bool((target.diagonal() >= 0.5 - 1e-6).all())
    assert torch.allclose(mixed.flatten(1)[:, 0], target @ torch.arange(32.0), atol=1e-4)
    assert int((target.diagonal() < 0.999).sum()) > 0


def test_mixup_with_alpha_nought_changes_nothing() -> None:
    x, y = batch(4), torch.arange(4)
    assert augment.mix(x, y, 0.0, augment.generator(0, 0)) == (x, y)
