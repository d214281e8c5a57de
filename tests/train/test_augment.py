"""`proj.train.augment`: each change does what its name says, and (seed, step) alone decides it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from proj.config import Augment
from proj.errors import ConfigError
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
    Augment(saturation=0.4),
    Augment(hue_deg=40),
    Augment(crop=0.3),
    Augment(randaugment=2),
    Augment(grid_dropout=0.3),
]


def asked_for(a: Augment) -> str:
    return next(k for k, v in vars(a).items() if v != vars(Augment())[k])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("crop", 1.0),
        ("saturation", -0.1),
        ("hue_deg", 181.0),
        ("grid_dropout", 1.0),
        ("cutmix", -1.0),
        ("randaugment", 11),
        ("randaugment_magnitude", 1.1),
    ],
)
def test_a_setting_out_of_range_is_refused(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"augment.{key} is out of range"):
        Augment(**{key: value})


def test_nothing_asked_for_changes_nothing_and_draws_nothing() -> None:
    x, g = batch(), augment.generator(0, 0)
    assert augment.pictures(x, Augment(), g) is x
    assert torch.equal(g.get_state(), augment.generator(0, 0).get_state())


@pytest.mark.parametrize("a", EACH, ids=asked_for)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_change_changes_and_keeps_shape_and_range(a: Augment, channels: int) -> None:
    x = batch(c=channels)
    y = augment.pictures(x, a, augment.generator(0, 0))
    assert y.shape == x.shape
    assert torch.equal(y, x) == (channels == 1 and bool(a.saturation or a.hue_deg))  # grey has no colour
    assert -1e-6 <= float(y.min()) <= float(y.max()) <= 1 + 1e-6


@given(
    a=st.builds(
        Augment,
        flip=st.booleans(),
        crop=st.sampled_from([0.0, 0.08, 0.5, 0.99]),
        rotate_deg=st.floats(0, 180),
        shift=st.floats(0, 0.9),
        scale=st.floats(0, 0.9),
        brightness=st.floats(0, 0.9),
        contrast=st.floats(0, 0.9),
        saturation=st.floats(0, 0.9),
        hue_deg=st.floats(0, 180),
        randaugment=st.integers(0, 3),
        randaugment_magnitude=st.floats(0, 1),
        grid_dropout=st.floats(0, 0.99),
    ),
    shape=st.tuples(st.integers(1, 5), st.sampled_from([1, 3]), st.integers(1, 20), st.integers(1, 20)),
    views=st.sampled_from([0, 2]),
    last=st.booleans(),
    step=st.integers(0, 1000),
)
@settings(max_examples=100, deadline=None)
def test_any_setting_gives_pictures_again(
    a: Augment, shape: tuple[int, int, int, int], views: int, last: bool, step: int
) -> None:
    x = batch(*shape)
    if views:
        x = x[:, None].repeat(1, views, 1, 1, 1)
    elif last:
        x = x.contiguous(memory_format=torch.channels_last)
    kept = x.clone()
    y = augment.inputs(x, "image", a, augment.generator(0, step))
    assert torch.equal(x, kept), "the input itself stays as it is"
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert -1e-5 <= float(y.min()) <= float(y.max()) <= 1 + 1e-5
    assert torch.equal(augment.inputs(x, "image", a, augment.generator(0, step)), y)


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


@pytest.mark.parametrize("share", [0.1, 0.36, 0.64])
@pytest.mark.parametrize(("channels", "left"), [(1, 0.0), (3, 0.5)])
def test_grid_dropout_erases_its_share_of_each_picture(share: float, channels: int, left: float) -> None:
    x = torch.full((64, channels, 160, 224), 0.9)
    y = augment.erased(x, share, augment.generator(0, 0))
    gone = y[:, 0] != x[:, 0]
    assert torch.equal(y, torch.where(gone[:, None], left, x))
    each = gone.float().mean((1, 2))
    assert float((each - share).abs().max()) < 0.05  # boxes end at whole pixels
    assert float(each.mean()) == pytest.approx(share, abs=0.01)


def test_grid_dropout_is_a_grid_of_squares_of_several_sizes_and_places() -> None:
    gone = augment.erased(torch.ones(64, 1, 160, 224), 0.25, augment.generator(0, 0))[:, 0] == 0
    rows, columns = gone.any(2), gone.any(1)
    assert torch.equal(gone, rows[:, :, None] & columns[:, None, :])
    assert len({tuple(r.tolist()) for r in rows}) > 50
    counts = set()
    for r, c in zip(rows, columns, strict=True):
        boxes = [int((v != v.roll(1)).sum()) // 2 for v in (r, c)]
        counts.add(boxes[0])
        sides = [int(v.sum()) / n for v, n in zip((r, c), boxes, strict=True)]
        assert sides[0] == pytest.approx(sides[1], rel=0.3)
    assert counts == {2, 3, 4, 5, 6, 7}
