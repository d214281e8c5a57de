"""`proj.train.randaugment`: each operation does what Pillow's does, to the pictures that drew it alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from proj.train import augment, randaugment
from proj.train.randaugment import Kind

LEVEL = 1.01 / 255


def photo(h: int = 30, w: int = 40, seed: int = 0) -> Image.Image:
    """Noise over a ramp, not all of the levels."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(30, 180, w)[None, :, None] + rng.integers(0, 60, (h, w, 3))
    return Image.fromarray(ramp.astype(np.uint8))


def as_tensor(image: Image.Image) -> torch.Tensor:
    x = torch.from_numpy(np.array(image))
    return (x.permute(2, 0, 1) if x.dim() == 3 else x[None])[None] / 255


def one(image: Image.Image, kind: Kind, by: float) -> torch.Tensor:
    return randaugment.apply(as_tensor(image), torch.tensor([kind]), torch.tensor([by]))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("by", [-1.0, -0.3, 0.5, 1.0])
@pytest.mark.parametrize(
    ("kind", "enhancer"),
    [
        (Kind.BRIGHTNESS, ImageEnhance.Brightness),
        (Kind.CONTRAST, ImageEnhance.Contrast),
        (Kind.COLOUR, ImageEnhance.Color),
        (Kind.SHARPNESS, ImageEnhance.Sharpness),
    ],
)
def test_a_blend_is_pillows(
    kind: Kind, enhancer: Callable[[Image.Image], ImageEnhance._Enhance], by: float, mode: str
) -> None:
    image = photo().convert(mode)
    wanted = as_tensor(enhancer(image).enhance(1 + by * 0.9))
    assert torch.allclose(one(image, kind, by), wanted, atol=2 * LEVEL)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    ("kind", "by", "pillow"),
    [
        (Kind.POSTERIZE, 1.0, lambda image: ImageOps.posterize(image, 4)),
        (Kind.POSTERIZE, -0.4, lambda image: ImageOps.posterize(image, 6)),
        (Kind.SOLARIZE, 0.5, lambda image: ImageOps.solarize(image, 128)),
        (Kind.SOLARIZE, -0.75, lambda image: ImageOps.solarize(image, 64)),
        (Kind.EQUALIZE, 0.3, ImageOps.equalize),
    ],
    ids=["posterize 4", "posterize 6", "solarize 128", "solarize 64", "equalize"],
)
def test_levels_are_pillows(kind: Kind, by: float, pillow: Callable[[Image.Image], Image.Image], mode: str) -> None:
    for seed in range(5):
        for lightest in (255, 120):  # as it is, and with a third of it in its lightest level
            image = photo(seed=seed).point(lambda v, most=lightest: min(v, most)).convert(mode)
            assert torch.allclose(one(image, kind, by), as_tensor(pillow(image)), atol=1e-6)


def test_autocontrast_is_pillows_but_for_its_rounding_down() -> None:
    assert torch.allclose(one(photo(), Kind.AUTOCONTRAST, 0.3), as_tensor(ImageOps.autocontrast(photo())), atol=LEVEL)


@pytest.mark.parametrize("kind", [Kind.AUTOCONTRAST, Kind.EQUALIZE])
@pytest.mark.parametrize("levels", [(77,), (0, 255)])
def test_a_flat_picture_and_one_of_two_levels_stay(kind: Kind, levels: tuple[int, ...]) -> None:
    image = Image.fromarray(np.resize(np.array(levels, np.uint8), (10, 16)))
    assert torch.allclose(one(image, kind, 1.0), as_tensor(image), atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "matrix"),
    [
        (Kind.SHEAR_X, lambda by, h, _: (1, 0.3 * by, -0.3 * by * h / 2, 0, 1, 0)),
        (Kind.SHEAR_Y, lambda by, _, w: (1, 0, 0, 0.3 * by, 1, -0.3 * by * w / 2)),
        (Kind.TRANSLATE_X, lambda by, _, w: (1, 0, 0.45 * by * w, 0, 1, 0)),
        (Kind.TRANSLATE_Y, lambda by, h, _: (1, 0, 0, 0, 1, 0.45 * by * h)),
    ],
)
@pytest.mark.parametrize("by", [-1.0, 0.4])
def test_shears_and_shifts_are_pillows(
    kind: Kind, matrix: Callable[[float, int, int], tuple[float, ...]], by: float
) -> None:
    _agree(
        kind, by, lambda i: i.transform(i.size, Image.Transform.AFFINE, matrix(by, 30, 40), Image.Resampling.BILINEAR)
    )


@pytest.mark.parametrize("by", [-1.0, 0.4])
def test_a_turn_is_pillows(by: float) -> None:
    _agree(Kind.ROTATE, by, lambda image: image.rotate(30 * by, Image.Resampling.BILINEAR))


def _agree(kind: Kind, by: float, pillow: Callable[[Image.Image], Image.Image]) -> None:
    """Where the new picture shows the old one: beyond its edge Pillow's is black."""
    image = photo()
    inside = np.array(pillow(Image.new("L", image.size, 255))) == 255
    inside &= np.roll(inside, 1, 0) & np.roll(inside, -1, 0) & np.roll(inside, 1, 1) & np.roll(inside, -1, 1)
    assert inside.mean() > 0.3
    found, wanted = (v[0].permute(1, 2, 0)[inside] for v in (one(image, kind, by), as_tensor(pillow(image))))
    assert torch.allclose(found, wanted, atol=2 * LEVEL)


def test_the_families_hold_each_operation_once() -> None:
    held = [kind for kinds, _ in randaugment.FAMILIES for kind in kinds]
    assert sorted([*held, Kind.IDENTITY]) == list(Kind)
    assert len(Kind) == 14


@pytest.mark.parametrize("channels", [1, 3])
def test_each_picture_gets_its_own_operation_whatever_its_neighbours_get(channels: int) -> None:
    x = torch.rand(28, channels, 18, 24, generator=torch.Generator().manual_seed(0))
    kept = x.clone()
    kind = torch.randperm(28, generator=torch.Generator().manual_seed(1)) % len(Kind)
    by = torch.linspace(0.3, 1, 28) * torch.tensor([1, -1]).repeat(14)
    y = randaugment.apply(x, kind, by)
    assert torch.equal(x, kept)
    for i in range(28):
        assert torch.allclose(y[i : i + 1], randaugment.apply(x[i : i + 1], kind[i : i + 1], by[i : i + 1]), atol=1e-6)
        same = kind[i] == Kind.IDENTITY or (channels == 1 and kind[i] == Kind.COLOUR)
        assert torch.allclose(y[i], x[i], atol=1e-6) == same


def test_at_magnitude_nought_only_the_two_without_a_strength_change_a_picture() -> None:
    image = photo()
    for kind in Kind:
        stays = torch.allclose(one(image, kind, 0.0), as_tensor(image), atol=1e-5)
        assert stays == (kind not in {Kind.AUTOCONTRAST, Kind.EQUALIZE}), kind.name


@given(
    operations=st.integers(0, 4),
    magnitude=st.floats(0, 1),
    channels=st.sampled_from([1, 3]),
    h=st.integers(1, 14),
    w=st.integers(1, 14),
    step=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_any_setting_gives_pictures_and_the_same_ones_again(
    operations: int, magnitude: float, channels: int, h: int, w: int, step: int
) -> None:
    x = torch.rand(6, channels, h, w, generator=torch.Generator().manual_seed(step))
    kept = x.clone()
    y = randaugment.changed(x, operations, magnitude, augment.generator(0, step))
    assert torch.equal(x, kept)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert -1e-5 <= float(y.min()) <= float(y.max()) <= 1 + 1e-5
    assert torch.equal(randaugment.changed(x, operations, magnitude, augment.generator(0, step)), y)
    if not operations:
        assert y is x


def test_all_operations_and_both_directions_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, float]] = []

    def watched(x: torch.Tensor, kind: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
        drawn.extend(zip(kind.tolist(), by.tolist(), strict=True))
        return x

    monkeypatch.setattr(randaugment, "apply", watched)
    randaugment.changed(torch.zeros(1000, 1, 1, 1), 2, 0.5, augment.generator(0, 0))
    assert len(drawn) == 2000
    assert {by for _, by in drawn} == {-0.5, 0.5}
    counts = np.bincount([kind for kind, _ in drawn], minlength=14)
    assert len(counts) == 14
    assert counts.min() > 100
