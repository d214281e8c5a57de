"""Several pictures as one input."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from proj.errors import InputError, InputTooLarge, UnsupportedInput
from proj.preprocess import image, views
from proj.preprocess.spec import ImageSpec

ONE = ImageSpec(height_px=4, width_px=6)
THREE = ImageSpec(height_px=4, width_px=6, views=3)


def grey(level: int, h: int = 4, w: int = 6) -> np.ndarray:
    return np.full((h, w, 3), level, np.uint8)


def png(x: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(x).save(out, "PNG")
    return out.getvalue()


def levels(x: np.ndarray) -> list[int]:
    """The grey level of each view, which must be plain."""
    assert (x.min((1, 2, 3)) == x.max((1, 2, 3))).all()
    return [int(v) for v in x[:, 0, 0, 0]]


def test_views_keep_their_order_whatever_they_come_as(tmp_path: Path) -> None:
    path = tmp_path / "b.png"
    path.write_bytes(png(grey(20, 8, 12)))
    x = views.decode([png(grey(10)), path, grey(30)], THREE)
    assert x.shape == THREE.shape == (3, 4, 6, 3)
    assert x.dtype == np.uint8
    assert levels(x) == [10, 20, 30]


@settings(max_examples=30, deadline=None)
@given(given=st.lists(st.integers(0, 255), min_size=1, max_size=5), more=st.integers(0, 4))
def test_fewer_views_are_taken_again_in_turn(given: list[int], more: int) -> None:
    spec = ImageSpec(height_px=4, width_px=6, views=len(given) + more)
    x = views.decode([grey(v) for v in given], spec)
    found = levels(x) if spec.views > 1 else [int(x[0, 0, 0])]
    assert found == [given[i % len(given)] for i in range(spec.views)]


@pytest.mark.parametrize("source", [grey(7), [grey(7)], (grey(7),)])
def test_one_picture_is_every_view(source: object) -> None:
    assert levels(views.decode(source, THREE)) == [7, 7, 7]  # type: ignore[arg-type]
    assert np.array_equal(views.decode(source, ONE), grey(7))  # type: ignore[arg-type]


def test_a_single_view_is_what_image_decode_makes() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 5, 3), np.uint8)
    assert np.array_equal(views.decode(png(noise), ONE), image.decode(png(noise), ONE))
    assert np.array_equal(views.decode([png(noise)], THREE)[2], image.decode(png(noise), ONE))


def test_what_has_been_decoded_stays_as_it_is() -> None:
    x = np.random.default_rng(0).integers(0, 256, THREE.shape, np.uint8)
    assert np.array_equal(views.decode(x, THREE), x)
    assert views.decode(x.transpose(0, 2, 1, 3)[:, :6].transpose(0, 2, 1, 3), THREE).flags.c_contiguous


@pytest.mark.parametrize(("count", "spec", "said"), [
    (4, THREE, "4 were given, the model takes 1 to 3"),
    (0, THREE, "0 were given"),
    (2, ONE, "2 were given, the model takes 1$"),
])  # fmt: skip
def test_a_wrong_number_of_views_is_an_input_error(count: int, spec: ImageSpec, said: str) -> None:
    with pytest.raises(InputError, match=said):
        views.decode([grey(1)] * count, spec)


def test_a_broken_view_among_good_ones_is_an_error_of_its_kind() -> None:
    with pytest.raises(UnsupportedInput):
        views.decode([grey(1), b"no picture"], THREE)
    with pytest.raises(InputTooLarge):
        views.decode([grey(1), png(grey(1, 20, 20))], THREE, max_pixels=100)
