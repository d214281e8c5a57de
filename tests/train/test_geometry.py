"""`proj.train.geometry`: where the pixels of a turned, moved or cropped picture come from."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from proj.config import Augment
from proj.train import augment, geometry


def still(b: int) -> torch.Tensor:
    return torch.tensor([[1.0, 0, 0], [0, 1, 0]]).expand(b, 2, 3)


@given(least=st.floats(0.001, 0.999), step=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_a_crop_lies_inside_and_keeps_its_share_and_aspect(least: float, step: int) -> None:
    theta = geometry.cropped(still(32), least, augment.generator(0, step))
    width, height = theta[:, 0, 0], theta[:, 1, 1]
    assert bool((theta[:, 0, 1] == 0).all() and (theta[:, 1, 0] == 0).all())
    assert least - 1e-4 <= float((width * height).min()) <= float((width * height).max()) <= 1 + 1e-4
    assert 3 / 4 - 1e-4 <= float((width / height).min()) <= float((width / height).max()) <= 4 / 3 + 1e-4
    assert float((theta[:, :, 2].abs() + torch.stack([width, height], 1)).max()) <= 1 + 1e-5


def test_crops_reach_the_limits_of_share_aspect_and_place() -> None:
    theta = geometry.cropped(still(5000), 0.1, augment.generator(0, 0))
    width, height = theta[:, 0, 0], theta[:, 1, 1]
    area, aspect = width * height, width / height
    assert float(area.min()) < 0.11
    assert float(area.max()) > 0.99
    assert float(area.mean()) == pytest.approx(0.55, abs=0.02)
    assert float(aspect.min()) < 0.76
    assert float(aspect.max()) > 1.31
    for middle, side in ((theta[:, 0, 2], width), (theta[:, 1, 2], height)):
        at = middle / (1 - side).clamp_min(1e-3)
        assert float(at.min()) < -0.99
        assert float(at.max()) > 0.99


def test_a_crop_enlarges_the_very_part_that_it_says() -> None:
    # The left upper quarter of a ramp, from its edges: pixels at half the distance.
    ramp = (torch.arange(16) + 0.5) / 16
    x = torch.stack([ramp.expand(8, 16), ((torch.arange(8) + 0.5) / 8)[:, None].expand(8, 16), torch.zeros(8, 16)])[
        None
    ]
    theta = torch.tensor([[[0.5, 0, -0.5], [0, 0.5, -0.5]]])
    y = geometry.bent(x, theta)[0]
    assert torch.allclose(y[0, :, 1:], (ramp / 2)[1:].expand(8, 15), atol=1e-6)
    assert torch.allclose(y[1, 1:], ((torch.arange(8) + 0.5) / 16)[1:, None].expand(7, 16), atol=1e-6)


def test_a_crop_of_a_turned_picture_is_the_turned_pictures_crop() -> None:
    g = augment.generator(0, 0)
    turned = geometry.drawn(4, 1.5, Augment(rotate_deg=30, shift=0.1, scale=0.2), g)
    once = geometry.cropped(turned, 0.3, augment.generator(0, 1))
    window = geometry.cropped(still(4), 0.3, augment.generator(0, 1))
    square = torch.tensor([0.0, 0, 1]).expand(4, 1, 3)
    assert torch.allclose(torch.cat([once, square], 1), torch.cat([turned, square], 1) @ torch.cat([window, square], 1))


@given(h=st.integers(1, 20), w=st.integers(1, 20), channels=st.sampled_from([1, 3]), step=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_places_are_torchs_own_and_a_crops_need_no_beyond(h: int, w: int, channels: int, step: int) -> None:
    x, g = torch.rand(3, channels, h, w), augment.generator(0, step)
    a = Augment(rotate_deg=180, shift=0.5, scale=0.5)
    theta = geometry.drawn(3, w / h, a, g)
    own = torch.nn.functional.affine_grid(theta, [3, channels, h, w], align_corners=False)
    assert torch.allclose(geometry.places(theta, h, w), own, atol=1e-5)
    if channels == 3:
        window = geometry.cropped(still(3), 0.2, g)
        assert torch.allclose(geometry.bent(x, window, inside=True), geometry.bent(x, window), atol=1e-4)


@pytest.mark.parametrize(("channels", "outside"), [(1, 0.0), (3, 1.0)])
def test_drawings_lie_on_black_and_photos_go_on(channels: int, outside: float) -> None:
    moved = torch.tensor([[[1.0, 0, 1.0], [0, 1, 0]]])  # by half the width
    y = geometry.bent(torch.ones(1, channels, 8, 8), moved)
    assert torch.allclose(y[..., :4], torch.ones(()))
    assert torch.allclose(y[..., 4:], torch.tensor(outside))


@pytest.mark.parametrize("a", [Augment(rotate_deg=20), Augment(crop=0.4, hue_deg=20, randaugment=2)])
def test_pixels_are_placed_in_full_precision_under_autocast(a: Augment) -> None:
    x = torch.rand(16, 3, 64, 64)
    wanted = augment.inputs(x, "image", a, augment.generator(0, 0))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(augment.inputs(x, "image", a, augment.generator(0, 0)), wanted)
