"""`proj.train.colour`: against Pillow, and what a turn of the hue keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from proj.config import Augment
from proj.train import augment, colour


def photo(h: int = 20, w: int = 24) -> torch.Tensor:
    """uint8 values as float 0..1, (1, 3, h, w)."""
    return torch.randint(256, (1, 3, h, w), generator=torch.Generator().manual_seed(0)) / 255


def as_image(x: torch.Tensor) -> Image.Image:
    return Image.fromarray((x[0] * 255).round().byte().permute(1, 2, 0).numpy())


def from_image(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255


def test_luma_is_pillows() -> None:
    x = photo()
    assert torch.allclose(
        colour.luma(x)[0], torch.from_numpy(np.array(as_image(x).convert("L"))) / 255, atol=1.01 / 255
    )


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.8])
def test_saturation_is_pillows(factor: float) -> None:
    x = photo()
    found = colour.linear(x, colour.saturation(torch.tensor([factor])), torch.zeros(1)).clamp(0, 1)
    assert torch.allclose(found, from_image(ImageEnhance.Color(as_image(x)).enhance(factor)), atol=2.01 / 255)


@given(degrees=st.floats(-180, 180))
@settings(max_examples=40, deadline=None)
def test_a_turn_of_the_hue_keeps_luma_grey_and_depth_of_colour(degrees: float) -> None:
    x = photo()
    y = colour.linear(x, colour.hue(torch.tensor([degrees])), torch.zeros(1))
    assert torch.allclose(colour.luma(y), colour.luma(x), atol=1e-4)
    back = colour.linear(y, colour.hue(torch.tensor([-degrees])), torch.zeros(1))
    assert torch.allclose(back, x, atol=1e-4)
    grey = torch.rand(1, 1, 4, 4).expand(1, 3, 4, 4)
    assert torch.allclose(colour.linear(grey, colour.hue(torch.tensor([degrees])), torch.zeros(1)), grey, atol=1e-5)
    i, q = (torch.tensor(row)[None, :, None, None] for row in colour.YIQ[1:])
    depth = [(p * i).sum(1).square() + (p * q).sum(1).square() for p in (x, y)]
    assert torch.allclose(depth[0], depth[1], atol=1e-3)


def test_half_a_turn_makes_the_opposite_colour() -> None:
    # Slightly red becomes slightly the blue-green of the same luma.
    red = torch.tensor([0.6, 0.5, 0.5]).view(1, 3, 1, 1)
    y = colour.linear(red, colour.hue(torch.tensor([180.0])), torch.zeros(1)).flatten()
    luma = float(colour.luma(red))
    assert torch.allclose(y, 2 * luma - red.flatten(), atol=1e-4)


def test_all_four_at_once_are_the_four_one_after_another() -> None:
    x = photo().expand(8, -1, -1, -1) * 0.2 + 0.4  # so that nothing is cut off at 0 or 1
    a = Augment(brightness=0.2, contrast=0.3, saturation=0.4, hue_deg=60)
    found = colour.changed(x, a, augment.generator(0, 0))
    g = augment.generator(0, 0)
    for one in ({"brightness": 0.2}, {"contrast": 0.3}, {"saturation": 0.4}, {"hue_deg": 60.0}):
        x = colour.changed(x, Augment(**one), g)
    assert torch.allclose(found, x, atol=1e-4)


def test_grey_pictures_have_neither_saturation_nor_hue() -> None:
    x, g = torch.rand(8, 1, 6, 6), augment.generator(0, 0)
    assert colour.changed(x, Augment(saturation=0.9, hue_deg=180), g) is x
    changed = colour.changed(x, Augment(brightness=0.5, hue_deg=180), augment.generator(0, 0))
    assert torch.equal(changed, colour.changed(x, Augment(brightness=0.5), augment.generator(0, 0)))


def test_the_input_itself_stays_as_it_is() -> None:
    x = torch.rand(4, 3, 6, 6)
    kept = x.clone()
    for a in (Augment(contrast=0.5), Augment(brightness=0.5), Augment(hue_deg=90, contrast=0.5)):
        assert not torch.equal(colour.changed(x, a, augment.generator(0, 0)), kept)
        assert torch.equal(x, kept)
