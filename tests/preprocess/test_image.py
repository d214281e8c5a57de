"""`proj.preprocess.image`: every kind of picture that people have, and every kind of file that is none."""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from proj.errors import InputError, InputTooLarge, UnsupportedInput
from proj.preprocess.image import decode, header
from proj.preprocess.photo import Pixels
from proj.preprocess.spec import ImageSpec

RGB = ImageSpec(height_px=12, width_px=16, channels=3)
GREY = ImageSpec(height_px=12, width_px=16, channels=1)
INK = ImageSpec(height_px=28, width_px=28, channels=1, fit="ink", ink_px=20)
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def quarters(w: int = 64, h: int = 48) -> Image.Image:
    """Red, green / blue, white: every turn and flip of it is another picture."""
    img = Image.new("RGB", (w, h), RED)
    img.paste(GREEN, (w // 2, 0, w, h // 2))
    img.paste(BLUE, (0, h // 2, w // 2, h))
    img.paste(WHITE, (w // 2, h // 2, w, h))
    return img


def saved(img: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    img.save(file, format, **options)
    return file.getvalue()


def corners(x: Pixels) -> list[tuple[int, ...]]:
    """Colours in the middle of the four quarters, rounded to full ones."""
    h, w, _ = x.shape
    at = [(h // 4, w // 4), (h // 4, 3 * w // 4), (3 * h // 4, w // 4), (3 * h // 4, 3 * w // 4)]
    return [tuple(round(int(v) / 255) * 255 for v in x[p]) for p in at]


UPRIGHT = [RED, GREEN, BLUE, WHITE]
# How a camera that notes orientation N stored the upright picture: the inverse of what a reader must do.
STORED: dict[int, Callable[[Image.Image], Image.Image]] = {
    1: lambda i: i,
    2: lambda i: i.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda i: i.transpose(Image.Transpose.ROTATE_180),
    4: lambda i: i.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda i: i.transpose(Image.Transpose.TRANSPOSE),
    6: lambda i: i.transpose(Image.Transpose.ROTATE_90),
    7: lambda i: i.transpose(Image.Transpose.TRANSVERSE),
    8: lambda i: i.transpose(Image.Transpose.ROTATE_270),
}


def turned(orientation: int, format: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(STORED[orientation](quarters()), format, exif=exif)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation: int, format: str) -> None:
    content = turned(orientation, format)
    assert corners(decode(content, RGB)) == UPRIGHT
    assert (header(content).width_px, header(content).height_px) == (64, 48)


def test_exif_rotation_and_a_jpeg_decoded_at_a_fraction() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    large = quarters(1600, 1200).transpose(Image.Transpose.ROTATE_90)
    assert corners(decode(saved(large, "JPEG", exif=exif), RGB)) == UPRIGHT


def test_unreadable_exif_does_not_make_a_picture_unreadable() -> None:
    content = saved(quarters(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff garbage")
    assert corners(decode(content, RGB)) == UPRIGHT


@pytest.mark.parametrize("value", [0, 9, 700])
def test_an_orientation_that_does_not_exist_is_ignored(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    assert corners(decode(saved(quarters(), "JPEG", exif=exif), RGB)) == UPRIGHT


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_every_format(format: str) -> None:
    content = saved(quarters(), format)
    x = decode(content, RGB)
    assert corners(x) == UPRIGHT
    assert (x.shape, x.dtype) == (RGB.shape, np.uint8)
    assert header(content).format == format


def test_transparent_becomes_white_and_half_transparent_half_white() -> None:
    img = Image.new("RGBA", (64, 48), (0, 0, 0, 0))
    img.paste((255, 0, 0, 255), (0, 0, 32, 24))
    img.paste((0, 0, 0, 128), (32, 24, 64, 48))
    x = decode(saved(img, "PNG"), RGB)
    assert corners(x)[:3] == [RED, WHITE, WHITE]
    assert abs(int(x[9, 12, 0]) - 127) <= 1


def test_grey_with_alpha() -> None:
    img = Image.new("LA", (64, 48), (0, 0))
    img.paste((60, 255), (0, 0, 32, 48))
    x = decode(saved(img, "PNG"), GREY)
    assert (x[6, 2, 0], x[6, 13, 0]) == (60, 255)


def test_grey() -> None:
    content = saved(Image.new("L", (64, 48), 77), "JPEG", quality=100)
    assert (decode(content, RGB) == 77).all()
    assert (decode(content, GREY) == 77).all()


def test_cmyk_jpeg() -> None:
    content = saved(quarters().convert("CMYK"), "JPEG", quality=95)
    assert header(content).mode == "CMYK"
    assert corners(decode(content, RGB)) == UPRIGHT


def test_palette() -> None:
    content = saved(quarters().quantize(8), "PNG")
    assert header(content).mode == "P"
    assert corners(decode(content, RGB)) == UPRIGHT


@pytest.mark.parametrize("form", ["one colour", "alpha of each colour"])
def test_palette_with_transparency(form: str) -> None:
    img = Image.new("P", (64, 48), 0)
    img.putpalette([*(0, 0, 0), *RED, *BLUE])
    img.paste(1, (32, 0, 64, 48))
    clear: int | bytes = 0 if form == "one colour" else bytes([0, 255, 255])
    assert corners(decode(saved(img, "PNG", transparency=clear), RGB)) == [WHITE, RED, WHITE, RED]


def test_a_transparent_colour_of_an_rgb_png() -> None:
    assert corners(decode(saved(quarters(), "PNG", transparency=BLUE), RGB)) == [RED, GREEN, WHITE, WHITE]


def wide(values: list[int]) -> Any:
    """uint16 (48, 64), columns in equal bands."""
    return np.repeat(np.array(values, np.uint16), 64 // len(values))[None].repeat(48, 0)


def test_16_bit_png() -> None:
    x = decode(saved(Image.fromarray(wide([0, 65535 // 2, 65535, 257])), "PNG"), GREY)
    assert [int(v) for v in x[6, [1, 6, 10, 14], 0]] == [0, 127, 255, 1]


def test_16_bit_png_with_a_transparent_grey() -> None:
    png = saved(Image.fromarray(wide([0, 1000, 65535, 0])), "PNG")
    trns = struct.pack(">I", 2) + b"tRNS" + struct.pack(">H", 1000)
    trns += struct.pack(">I", zlib.crc32(trns[4:]))
    at = png.index(b"IDAT") - 4
    x = decode(png[:at] + trns + png[at:], GREY)
    assert [int(v) for v in x[6, [1, 6, 10, 14], 0]] == [0, 255, 255, 0]


def test_big_endian_16_bit_tiff() -> None:
    pixels = wide([0, 65535 // 2, 65535, 257]).astype(">u2")
    content = saved(Image.frombytes("I;16B", (64, 48), pixels.tobytes()), "TIFF")
    assert header(content).mode == "I;16B"
    assert [int(v) for v in decode(content, GREY)[6, [1, 6, 10, 14], 0]] == [0, 127, 255, 1]


def test_32_bit_tiff() -> None:
    pixels = wide([0, 65535 // 2, 65535, 257]).astype(np.int32)
    x = decode(saved(Image.fromarray(pixels), "TIFF"), GREY)
    assert [int(v) for v in x[6, [1, 6, 10], 0]] == [0, 127, 255]


@pytest.mark.parametrize("top", [1.0, 255.0])
def test_floating_point_tiff(top: float) -> None:
    pixels = (wide([0, 1, 2, 2]) / 2 * top).astype(np.float32)
    x = decode(saved(Image.fromarray(pixels), "TIFF"), GREY)
    assert [int(v) for v in x[6, [1, 6, 10], 0]] == [0, 128, 255]


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_floating_point_tiff_of_no_numbers(odd: float) -> None:
    x = decode(saved(Image.fromarray(np.full((48, 64), odd, np.float32)), "TIFF"), GREY)
    assert (x == (255 if odd > 0 else 0)).all()


def test_1_bit() -> None:
    img = Image.new("1", (64, 48), 0)
    img.paste(1, (32, 0, 64, 48))
    assert corners(decode(saved(img, "PNG"), RGB)) == [(0, 0, 0), WHITE, (0, 0, 0), WHITE]
    assert corners(decode(saved(img, "TIFF"), RGB)) == [(0, 0, 0), WHITE, (0, 0, 0), WHITE]


def test_lab_tiff() -> None:
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:, 32:, 0] = 255  # L from 0 to 255, a = b = 0 : black and white
    content = saved(Image.frombytes("LAB", (64, 48), pixels.tobytes()), "TIFF")
    assert header(content).mode == "LAB"
    assert corners(decode(content, RGB)) == [(0, 0, 0), WHITE, (0, 0, 0), WHITE]


def test_ycbcr_tiff() -> None:
    content = saved(quarters().convert("YCbCr"), "TIFF")
    assert header(content).mode == "YCbCr"
    assert corners(decode(content, RGB)) == UPRIGHT


def test_lossless_webp_equals_png() -> None:
    webp, png = saved(quarters(), "WEBP", lossless=True), saved(quarters(), "PNG")
    np.testing.assert_array_equal(decode(webp, RGB), decode(png, RGB))


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_several(format: str) -> None:
    later = [Image.new("RGB", (64, 48), BLUE), Image.new("RGB", (64, 48), GREEN)]
    content = saved(quarters(), format, save_all=True, append_images=later)
    assert corners(decode(content, RGB)) == UPRIGHT


def test_mpo() -> None:
    content = saved(quarters(), "MPO", save_all=True, append_images=[Image.new("RGB", (64, 48), BLUE)])
    assert header(content).format == "MPO"
    assert corners(decode(content, RGB)) == UPRIGHT


def test_path_and_bytes_give_the_same(tmp_path: Path) -> None:
    for i, content in enumerate([turned(6, "JPEG"), turned(8, "TIFF"), saved(quarters(), "GIF")]):
        (tmp_path / str(i)).write_bytes(content)
        np.testing.assert_array_equal(decode(tmp_path / str(i), RGB), decode(content, RGB))


def test_arrays_of_the_shape_pass_untouched() -> None:
    x = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    np.testing.assert_array_equal(decode(x, INK)[..., 0], x)
    np.testing.assert_array_equal(decode(x[..., None], INK)[..., 0], x)


def test_arrays_of_another_shape_are_fitted_as_files_are() -> None:
    whole = np.asarray(quarters())
    np.testing.assert_array_equal(decode(whole, RGB), decode(saved(quarters(), "PNG"), RGB))
    clear = np.dstack([whole, np.zeros(whole.shape[:2], np.uint8)])
    assert (decode(clear, RGB) == 255).all()
    assert decode(whole[..., 0], RGB).shape == RGB.shape


@pytest.mark.parametrize(
    "bad",
    [np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4), np.float32), np.zeros((0, 4), np.uint8),
     np.zeros(4, np.uint8), np.zeros((2, 4, 4, 3), np.uint8)],
    ids=["two channels", "floats", "no rows", "one axis", "four axes"],
)  # fmt: skip
def test_arrays_that_are_no_picture(bad: Any) -> None:
    with pytest.raises(InputError, match="no picture"):
        decode(bad, RGB)


def resized_header(png: bytes, w: int, h: int) -> bytes:
    """The PNG with a header that promises w x h pixels."""
    out = bytearray(png)
    out[16:24] = struct.pack(">II", w, h)
    out[29:33] = struct.pack(">I", zlib.crc32(bytes(out[12:29])))
    return bytes(out)


JPEG, PNG = saved(quarters(), "JPEG"), saved(quarters(), "PNG")
BAD: dict[str, tuple[bytes, type[InputError]]] = {
    "empty": (b"", InputError),
    "text": (b"hello, world\n" * 50, UnsupportedInput),
    "html": (b"<!DOCTYPE html><html></html>", UnsupportedInput),
    "pdf": (b"%PDF-1.7\n" + bytes(100), UnsupportedInput),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', UnsupportedInput),
    "zip": (b"PK\3\4" + bytes(100), UnsupportedInput),
    "zeros": (bytes(1000), UnsupportedInput),
    "heic": (b"\0\0\0\x18ftypheic" + bytes(100), UnsupportedInput),
    "a format not taken (PPM)": (saved(quarters(), "PPM"), UnsupportedInput),
    "JPEG cut in its header": (JPEG[:20], InputError),
    "JPEG cut in the middle": (JPEG[: len(JPEG) // 2], InputError),
    "PNG cut in the middle": (PNG[: len(PNG) // 2], InputError),
    "PNG with a wrong checksum": (PNG.replace(b"IDAT", b"IDAT\xff", 1), InputError),
    "GIF cut in its header": (saved(quarters(), "GIF")[:20], InputError),
    "WebP cut in the middle": (saved(quarters(), "WEBP")[:60], InputError),
    "BMP cut in the middle": (saved(quarters(), "BMP")[:500], InputError),
    "TIFF without its directory": (saved(quarters(), "TIFF")[:8], InputError),
    "decompression bomb": (resized_header(PNG, 50_000, 50_000), InputTooLarge),
    "PNG of no pixels": (resized_header(PNG, 0, 0), InputError),
    "JPEG marker alone": (b"\xff\xd8\xff\xe0", InputError),
}  # fmt: skip


@pytest.mark.parametrize("as_path", [False, True], ids=["bytes", "path"])
@pytest.mark.parametrize("case", BAD)
def test_bad_files(case: str, as_path: bool, tmp_path: Path) -> None:
    content, error = BAD[case]
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(error) as caught:
        decode(tmp_path / "x.jpg" if as_path else content, RGB)
    assert caught.value.what


def test_errors_say_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file"):
        decode(tmp_path / "none.jpg", RGB)
    with pytest.raises(InputError, match="is a folder"):
        decode(tmp_path, RGB)
    with pytest.raises(InputError, match="empty"):
        decode(b"", RGB)
    with pytest.raises(UnsupportedInput, match="HEIC"):
        decode(BAD["heic"][0], RGB)


def test_the_pixel_limit_is_the_callers() -> None:
    with pytest.raises(InputTooLarge, match="64 x 48"):
        decode(PNG, RGB, max_pixels=64 * 48 - 1)
    assert decode(PNG, RGB, max_pixels=64 * 48).shape == RGB.shape


def test_threads_that_decode_leave_the_warning_filters_alone() -> None:
    before = [f for f in warnings.filters if f[0] != "ignore"]
    odd = saved(quarters(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff garbage")
    errors: list[Exception] = []

    def again() -> None:
        try:
            for _ in range(30):
                decode(odd, RGB)
        except Exception as e:
            errors.append(e)

    threads = [threading.Thread(target=again) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors
    assert [f for f in warnings.filters if f[0] != "ignore"] == before
    with pytest.raises(UserWarning):
        warnings.warn("of somebody else", stacklevel=1)


SEEDS = [
    *(saved(quarters(), f) for f in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")),
    turned(6, "JPEG"),
    saved(Image.fromarray(wide([0, 9])), "PNG"),
    saved(quarters().quantize(8), "PNG", transparency=0),
    saved(quarters(), "TIFF", compression="tiff_lzw"),
    saved(quarters().convert("CMYK"), "JPEG"),
    saved(quarters().convert("YCbCr"), "TIFF"),
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    content = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 8))):
        at = draw(st.integers(0, min(len(content), 400) - 1) | st.integers(0, len(content) - 1))
        content[at] = draw(st.integers(0, 255))
    return bytes(content[: draw(st.integers(1, len(content)) | st.just(len(content)))])


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(content=mutated() | st.binary(max_size=200), spec=st.sampled_from([RGB, GREY, INK]))
def test_any_bytes_give_a_picture_or_an_input_error(content: bytes, spec: ImageSpec) -> None:
    try:
        x = decode(content, spec, max_pixels=1_000_000)
    except InputError:
        return
    assert (x.shape, x.dtype) == (spec.shape, np.uint8)


def drawing(paper: int = 255, ink: int = 0, size: int = 300, at: tuple[int, int] = (90, 70), scale: float = 1.0) -> Any:
    """A seven, anti-aliased, uint8 (size, size)."""
    big = Image.new("L", (size * 4, size * 4), paper)
    points = [(4 * (at[0] + scale * x), 4 * (at[1] + scale * y)) for x, y in ((0, 0), (100, 0), (40, 150))]
    ImageDraw.Draw(big).line(points, fill=ink, width=round(4 * 16 * scale), joint="curve")
    return np.asarray(big.resize((size, size), Image.Resampling.BOX))


def apart(a: Pixels, b: Pixels) -> float:
    """Mean difference in grey levels."""
    return float(np.abs(a.astype(int) - b).mean())


REFERENCE = decode(drawing(), INK)


def test_ink_is_light_on_black_and_fills_its_box() -> None:
    on = REFERENCE[..., 0] > 40
    rows, cols = np.flatnonzero(on.any(1)), np.flatnonzero(on.any(0))
    assert max(np.ptp(rows), np.ptp(cols)) + 1 in {19, 20}
    assert abs((rows[0] + rows[-1]) / 2 - 13.5) <= 1
    assert abs((cols[0] + cols[-1]) / 2 - 13.5) <= 1
    assert (REFERENCE.max(), REFERENCE[0].max()) == (255, 0)


@pytest.mark.parametrize(
    ("case", "limit"),
    [
        ({"paper": 0, "ink": 255}, 0.0),
        ({"paper": 230, "ink": 60}, 1.0),
        ({"paper": 40, "ink": 200}, 1.0),
        ({"at": (20, 10)}, 0.5),
        ({"at": (170, 120)}, 0.5),
        ({"size": 600, "at": (200, 300)}, 0.5),
        ({"scale": 0.5}, 4.0),
        ({"scale": 1.3}, 4.0),
    ],
    ids=lambda c: ",".join(f"{k}={v}" for k, v in c.items()) if isinstance(c, dict) else "",
)
def test_ink_whatever_its_colours_place_and_size(case: dict[str, Any], limit: float) -> None:
    assert apart(decode(drawing(**case), INK), REFERENCE) <= limit
    other = np.rot90(drawing(**case))
    assert apart(decode(np.ascontiguousarray(other), INK), REFERENCE) > 15  # the measure tells drawings apart


def test_ink_in_colour_on_coloured_paper_and_on_a_transparent_page() -> None:
    mask = Image.fromarray(255 - drawing())
    coloured = Image.new("RGB", mask.size, (250, 245, 200))
    coloured.paste((20, 30, 160), (0, 0), mask)
    assert apart(decode(saved(coloured, "PNG"), INK), REFERENCE) < 1
    for ink in ((0, 0, 0), (255, 255, 255)):
        sheet = Image.new("RGBA", mask.size, (*ink, 0))
        sheet.putalpha(mask)
        assert apart(decode(saved(sheet, "PNG"), INK), REFERENCE) < 1


def test_ink_of_a_hair_line_is_as_bright_as_any() -> None:
    page = np.full((800, 800), 255, np.uint8)
    page[100:700, 400:402] = 0
    assert decode(page, INK).max() == 255


@pytest.mark.parametrize("paper", [0, 128, 255])
def test_ink_on_an_empty_page_is_black(paper: int) -> None:
    assert not decode(np.full((50, 70), paper, np.uint8), INK).any()
    noisy = np.clip(np.random.default_rng(0).normal(paper, 2, (50, 70)), 0, 255).astype(np.uint8)
    assert not decode(noisy, INK).any()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("h", "w", "ink_px"), [(28, 28, 20), (20, 40, 40), (40, 20, 40), (8, 8, 8), (28, 28, 0)])
def test_ink_fits_every_shape(h: int, w: int, ink_px: int, channels: Any) -> None:
    spec = ImageSpec(height_px=h, width_px=w, channels=channels, fit="ink", ink_px=ink_px)
    x = decode(drawing(), spec)
    assert x.shape == spec.shape
    assert x.max() == 255
    assert (x == x[..., :1]).all()


def test_ink_enlarges_smoothly() -> None:
    small = np.zeros((10, 12), np.uint8)
    small[2:8, 3:5] = small[6:8, 3:9] = 255
    assert len(np.unique(decode(small, INK))) > 4


@pytest.mark.real_data
def test_real_photos_decode(real_data: Path) -> None:
    spec = ImageSpec(height_px=224, width_px=224)
    for path in sorted((real_data / "trashnet").rglob("*.jpg"))[::100]:
        x = decode(path, spec)
        whole = Image.open(path).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
        assert apart(x, np.asarray(whole)) < 2
