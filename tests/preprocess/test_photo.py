"""`proj.preprocess.photo`: JPEGs without Pillow are Pillow's own pixels; a resize that does not alias."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from proj.errors import InputError, InputTooLarge
from proj.preprocess import image, photo
from proj.preprocess.photo import Pixels
from proj.preprocess.spec import ImageSpec

BILINEAR = Image.Resampling.BILINEAR
SMALL = ImageSpec(height_px=24, width_px=32)


def scene(w: int = 320, h: int = 240) -> Image.Image:
    """Soft and sharp edges in all colours, no side like another."""
    y, x = np.mgrid[:h, :w]
    waves = np.stack([np.sin(x / 9), np.cos(y / 7 + x / 30), np.sin(x * y / 900)], -1)
    pixels = (127 + 90 * waves + 30 * ((x // 20 + y // 25) % 2)[..., None]).clip(0, 255)
    return Image.fromarray(pixels.astype(np.uint8))


def jpeg(img: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    img.save(file, "JPEG", **options)
    return file.getvalue()


def apart(a: Any, b: Any) -> float:
    return float(np.abs(np.asarray(a, int) - np.asarray(b, int)).mean())


def by_pillow(content: bytes, spec: ImageSpec, monkeypatch: pytest.MonkeyPatch) -> Pixels:
    with monkeypatch.context() as patch:
        patch.setattr(photo, "jpeg_size", lambda _: None)
        return image.decode(content, spec)


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "progressive": {"progressive": True},
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "restarts": {"restart_marker_rows": 1},
    "poor": {"quality": 5},
    "optimised": {"optimize": True},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("size", [(24, 32), (60, 70), (100, 128), (240, 300), (31, 200), (300, 10)])
def test_the_fast_way_gives_pillows_pixels(
    options: dict[str, Any], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ImageSpec(height_px=size[0], width_px=size[1])
    for content in (jpeg(scene(), **options), jpeg(scene(401, 333).convert("L"), **options)):
        np.testing.assert_array_equal(image.decode(content, spec), by_pillow(content, spec, monkeypatch))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_fast_way_turns_as_pillow_does(orientation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = jpeg(scene(), exif=exif)
    for spec in (SMALL, ImageSpec(height_px=100, width_px=64), ImageSpec(height_px=60, width_px=60, channels=1)):
        x = image.decode(content, spec)
        # Grey is the JPEG's own brightness, which Pillow works out from the colours.
        np.testing.assert_allclose(x, by_pillow(content, spec, monkeypatch), atol=2 if spec.channels == 1 else 0)
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
        whole = upright.convert("RGB" if spec.channels == 3 else "L").resize((spec.width_px, spec.height_px), BILINEAR)
        assert apart(x, np.asarray(whole).reshape(x.shape)) < 6
        assert apart(x[::-1], np.asarray(whole).reshape(x.shape)) > 20


def test_orientation_in_xmp_counts_as_pillow_counts_it() -> None:
    xmp = b'http://ns.adobe.com/xap/1.0/\0<rdf:Description tiff:Orientation="3"/>'
    content = jpeg(scene())
    content = content[:2] + b"\xff\xe1" + struct.pack(">H", len(xmp) + 2) + xmp + content[2:]
    np.testing.assert_array_equal(image.decode(content, SMALL), image.decode(jpeg(scene()), SMALL)[::-1, ::-1])


def test_grey_of_a_colour_jpeg_is_its_brightness() -> None:
    spec = ImageSpec(height_px=60, width_px=80, channels=1)
    x = image.decode(jpeg(scene(), quality=95), spec)
    want = scene().convert("L").resize((80, 60), BILINEAR)
    assert apart(x[..., 0], want) < 3


def test_a_grey_jpeg_in_colour_has_three_equal_channels() -> None:
    x = image.decode(jpeg(scene().convert("L")), SMALL)
    assert x.shape == SMALL.shape
    assert (x == x[..., :1]).all()
    assert x.std() > 20


@pytest.mark.parametrize("space", ["RGB", "CMYK"])
def test_other_colour_spaces_are_pillows(space: str) -> None:
    content = jpeg(scene(), keep_rgb=True) if space == "RGB" else jpeg(scene().convert("CMYK"))
    assert photo.jpeg_size(content) is None
    want = scene().resize((32, 24), BILINEAR)
    assert apart(image.decode(content, SMALL), want) < 6


def test_junk_between_markers_is_skipped_as_pillow_skips_it() -> None:
    content = jpeg(scene())
    at = content.index(b"\xff\xdb")
    np.testing.assert_array_equal(
        image.decode(content[:at] + b"\xff\xff" + content[at:], SMALL), image.decode(content, SMALL)
    )
    np.testing.assert_array_equal(image.decode(content + b"after the end", SMALL), image.decode(content, SMALL))


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["plain", "progressive"])
@pytest.mark.parametrize("spec", [SMALL, ImageSpec(height_px=240, width_px=320)], ids=["at a fraction", "whole"])
def test_a_jpeg_cut_off_anywhere_is_refused(options: dict[str, Any], spec: ImageSpec) -> None:
    content = jpeg(scene(), **options)
    for end in [*range(2, len(content) - 2, 211), len(content) - 40, len(content) - 3, len(content) - 2]:
        with pytest.raises(InputError):
            image.decode(content[:end], spec)


def test_the_pixel_limit_is_read_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(jpeg(scene()))
    at = content.index(b"\xff\xc0")
    content[at + 5 : at + 9] = struct.pack(">HH", 65_000, 65_000)
    monkeypatch.setattr(photo, "jpeg", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(InputTooLarge, match="65000 x 65000"):
        image.decode(bytes(content), SMALL)
    with pytest.raises(InputTooLarge, match="320 x 240"):
        image.decode(jpeg(scene()), SMALL, max_pixels=320 * 240 - 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("w", "h", "to_w", "to_h"),
    [(384, 288, 224, 224), (300, 300, 150, 150), (300, 200, 224, 199), (900, 40, 64, 64), (40, 900, 64, 64),
     (700, 500, 64, 48), (451, 449, 225, 224), (30, 20, 224, 224), (1, 1, 5, 7), (5, 7, 1, 1), (200, 1, 9, 9)],
)  # fmt: skip
def test_a_resize_is_near_the_antialiased_one(w: int, h: int, to_w: int, to_h: int, channels: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (h, w, 3)[: 2 + (channels == 3)], dtype=np.uint8)
    want = np.asarray(Image.fromarray(noise).resize((to_w, to_h), BILINEAR))
    x = photo.resize(noise, to_w, to_h)
    assert x.shape == want.shape
    # Noise has all frequencies: linear interpolation alone is 30 off where it shrinks to a half.
    assert apart(x, want) < 8


def test_fine_stripes_become_grey() -> None:
    stripes = np.zeros((288, 384, 3), np.uint8)
    stripes[:, ::2] = 255
    x = photo.resize(stripes, 224, 224).astype(int)
    assert np.abs(x - 127).max() < 60
    aliased = np.asarray(Image.fromarray(stripes).resize((224, 224), Image.Resampling.NEAREST), int)
    assert np.abs(aliased - 127).max() > 120  # what stripes are without


def test_a_picture_of_the_right_size_is_left_as_it_is() -> None:
    pixels = np.asarray(scene(32, 24))
    x = image.decode(as_png(pixels), SMALL)
    np.testing.assert_array_equal(x, pixels)
    assert x.flags.writeable
    assert x.flags.c_contiguous


def as_png(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    w=st.integers(1, 200), h=st.integers(1, 200), to_w=st.integers(1, 90), to_h=st.integers(1, 90),
    channels=st.sampled_from([1, 3]), level=st.integers(0, 255),
)  # fmt: skip
def test_an_even_picture_stays_even(w: int, h: int, to_w: int, to_h: int, channels: Any, level: int) -> None:
    spec = ImageSpec(height_px=to_h, width_px=to_w, channels=channels)
    assert (image.decode(np.full((h, w, 3), level, np.uint8), spec) == level).all()


def test_what_memory_cannot_hold_is_too_large() -> None:
    spec = ImageSpec(height_px=1_000_000, width_px=1_000_000)
    with pytest.raises(InputTooLarge, match="does not fit"):
        image.decode(jpeg(scene(16, 16)), spec)


def test_threads_decode_the_same_pixels() -> None:
    contents = [jpeg(scene(200 + 8 * i, 150 + 5 * i)) for i in range(12)]
    alone = [image.decode(c, SMALL) for c in contents]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for x, want in zip(pool.map(lambda c: image.decode(c, SMALL), contents), alone, strict=True):
                np.testing.assert_array_equal(x, want)


def test_decoding_leaves_pythons_lock_to_others() -> None:
    content = jpeg(scene().resize((2000, 1500)))
    spec = ImageSpec(height_px=1000, width_px=1400)
    stop, counted = threading.Event(), [0]

    def count() -> None:
        while not stop.wait(0.001):
            counted[0] += 1

    thread = threading.Thread(target=count)
    image.decode(content, spec)
    thread.start()
    try:
        for _ in range(3):
            image.decode(content, spec)
    finally:
        stop.set()
        thread.join()
    assert counted[0] >= 5  # with the lock held it wakes once or twice for each picture


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_a_pipe_is_read_once(kind: str, tmp_path: Path) -> None:
    pipe, seen = tmp_path / "pipe", []
    os.mkfifo(pipe)
    content = jpeg(scene()) if kind == "jpeg" else as_png(np.asarray(scene(64, 48)))
    # Daemons: who opens a pipe a second time waits for ever.
    threads = [
        threading.Thread(target=pipe.write_bytes, args=(content,), daemon=True),
        threading.Thread(target=lambda: seen.append(image.decode(pipe, SMALL)), daemon=True),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(seen) == 1
    np.testing.assert_array_equal(seen[0], image.decode(content, SMALL))


def test_nothing_heavy_is_imported_before_the_first_picture() -> None:
    code = "import sys, proj.preprocess.image; print([m for m in ('cv2', 'simplejpeg') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("folder", "limit"), [("trashnet", 0.6), ("nutrition/ecustfd", 0.5), ("nutrition/nutrition5k", 0.9)]
)
def test_real_photos_are_near_the_antialiased_ones(real_data: Path, folder: str, limit: float) -> None:
    spec = ImageSpec(height_px=224, width_px=224)
    off = []
    for path in sorted((real_data / folder).rglob("*.jpg"))[::40]:
        whole = Image.open(path).convert("RGB").resize((224, 224), BILINEAR)
        off.append(apart(image.decode(path, spec), whole))
    assert np.mean(off) < limit
