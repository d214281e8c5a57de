"""Pictures: from a file as people have it to uint8 pixels."""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from proj.errors import InputError, InputTooLarge, UnsupportedInput
from proj.preprocess.spec import ImageSpec

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Grey = np.ndarray[Any, np.dtype[np.float32]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # a phone's MPO opens as its JPEG
DEFAULT_MAX_PIXELS = 64_000_000  # twice a 32-megapixel camera; larger ones are taken for decompression bombs
BLANK = 16  # grey levels: a page on which nothing stands out by more is empty


def decode(source: bytes | Path | Pixels, spec: ImageSpec, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Pixels:
    """Decode and bring to `spec.view_shape`, uint8.

    Applies EXIF rotation, lays transparency on white, takes greyscale, CMYK, palette, 16-bit and the first
    frame of an animation. An array that already has `spec.view_shape` (or lacks only the channel axis) is returned
    as it is; any other must be uint8 (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).
    Raises UnsupportedInput (no picture, or of a kind we do not take), InputTooLarge (over `max_pixels`, read
    from the header before anything is decoded, or more than memory holds), InputError (broken, cut off,
    cannot be read).
    """
    try:
        if isinstance(source, np.ndarray):
            x = source[..., None] if source.ndim == 2 else source
            if x.shape == spec.view_shape and x.dtype == np.uint8:
                return np.ascontiguousarray(x)
            img = _from_array(x)
        else:
            img = _open(source, spec, max_pixels)
        return _ink_of(img, spec) if spec.fit == "ink" else _squash(_flat(img), spec)
    except MemoryError:
        raise InputTooLarge("the picture does not fit into memory") from None


@dataclass(frozen=True, slots=True)
class Header:
    """What a picture's first bytes say: size as it is seen (upright), Pillow's mode and format."""

    width_px: int
    height_px: int
    mode: str
    format: str


def header(source: bytes | Path) -> Header:
    """Read the header alone; nothing is decoded. Raises InputError and its kinds."""
    with _opened(source) as img:
        w, h = img.size
        sideways = img.format != "TIFF" and _orientation(img) in {5, 6, 7, 8}  # Pillow turns a TIFF itself
        return Header(*((h, w) if sideways else (w, h)), img.mode, img.format or "")


def _opened(source: bytes | Path) -> Image.Image:
    """Open without decoding."""
    _quiet()
    try:
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=IMAGE_FORMATS)
    except UnidentifiedImageError:
        raise _no_picture(source) from None
    except FileNotFoundError:
        raise InputError(f"no file {source!s}") from None
    except IsADirectoryError:
        raise InputError(f"{source!s} is a folder, not a picture") from None
    except PermissionError:
        raise InputError(f"{source!s} cannot be read", found="permission denied") from None
    except Image.DecompressionBombError as e:
        found = re.search(r"\d+ pixels", str(e))  # Pillow goes on with its own limit, which is not ours
        raise InputTooLarge("the picture has too many pixels", found=found[0] if found else "") from None
    except MemoryError:
        raise
    except Exception as e:  # a header that Pillow's parsers stumble over
        raise _broken(e) from None


def _open(source: bytes | Path, spec: ImageSpec, max_pixels: int) -> Image.Image:
    """Read a file's first frame, upright, in the mode it is stored in."""
    with _opened(source) as img:
        w, h = img.size
        if w * h > max_pixels:
            raise InputTooLarge(f"the picture has {w} x {h} pixels", found=f"the limit is {max_pixels:,}")
        try:
            # A JPEG can be decoded at a half, quarter or eighth; never below twice the size that is needed.
            if spec.fit == "squash":
                side = 2 * max(spec.height_px, spec.width_px)
                img.draft(None, (side, side))
            img.seek(0)
            img.load()
        except MemoryError:
            raise
        except Exception as e:  # decoders raise what they meet: OSError, ValueError, struct.error
            raise _broken(e) from None
        turn = _TURNS.get(_orientation(img))
        # The copy outlives the file. Pillow itself has turned a TIFF by now, and taken the tag away.
        return img.transpose(turn) if turn is not None else img.copy()


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _orientation(img: Image.Image) -> int:
    """EXIF orientation, 1..8. Metadata that cannot be read do not make a picture unreadable: 1."""
    try:
        value = img.getexif().get(0x0112, 1)
        return value if isinstance(value, int) else 1
    except MemoryError:
        raise
    except Exception:  # as in `_open`: parsers of broken metadata raise anything
        return 1


def _quiet() -> None:
    """Silence Pillow's warnings of odd metadata and of bombs: both are dealt with here.

    `warnings.catch_warnings` would do it for one call, but is not safe where several threads decode.
    """
    ours = ("ignore", None, Warning, re.compile(r"PIL\b"), 0)
    if ours not in warnings.filters:
        warnings.filterwarnings("ignore", module=r"PIL\b")


def _no_picture(source: bytes | Path) -> InputError:
    try:
        start = source[:16] if isinstance(source, bytes) else _first_bytes(source)
    except OSError as e:
        return InputError(f"{source!s} cannot be read", found=e.strerror or str(e))
    if not start:
        return InputError("the file is empty")
    if start[4:12] in {b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1", b"ftyphevc"}:
        return UnsupportedInput("a HEIC picture, which is not read", next="save it as JPEG")
    return UnsupportedInput("not a picture that can be read", found="JPEG, PNG, WebP, GIF, BMP and TIFF can")


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as f:
        return f.read(16)


def _broken(e: Exception) -> InputError:
    return InputError("the picture is broken or cut off", found=f"{type(e).__name__}: {e}")


def _from_array(x: Pixels) -> Image.Image:
    """`x` (H, W, C)."""
    if x.dtype != np.uint8 or x.ndim != 3 or x.shape[-1] not in {1, 3, 4} or not x.size:
        raise InputError(
            "an array that is no picture",
            found=f"{x.dtype} {x.shape}; uint8 (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) is",
        )
    return Image.fromarray(np.ascontiguousarray(x[..., 0] if x.shape[-1] == 1 else x))


def _squash(img: Image.Image, spec: ImageSpec) -> Pixels:
    img = img.convert("RGB" if spec.channels == 3 else "L")
    if img.size != (spec.width_px, spec.height_px):
        img = img.resize((spec.width_px, spec.height_px), Image.Resampling.BILINEAR)
    return np.array(img, dtype=np.uint8).reshape(spec.view_shape)


def _flat(img: Image.Image, paper: int = 255) -> Image.Image:
    """Any mode to L or RGB, 8 bit; transparency on `paper` (a grey level)."""
    if img.mode.startswith(("I", "F")):
        return _eight_bit(img, paper)
    if img.mode == "LAB":
        return _from_lab(img)
    if img.mode in {"La", "RGBa"}:  # multiplied by alpha: Pillow converts them only to their like
        img = img.convert({"La": "LA", "RGBa": "RGBA"}[img.mode])
    if _see_through(img):
        rgba = img.convert("RGBA")
        under = Image.new("RGBA", rgba.size, (paper, paper, paper, 255))
        return Image.alpha_composite(under, rgba).convert("RGB")
    return img if img.mode in {"L", "RGB"} else img.convert("L" if img.mode == "1" else "RGB")


def _see_through(img: Image.Image) -> bool:
    return img.mode in {"P", "PA", "LA", "RGBA"} or img.info.get("transparency") is not None


def _eight_bit(img: Image.Image, paper: int) -> Image.Image:
    """Greys of 16 or 32 bits or floating-point to L."""
    a = np.array(img, dtype=np.float32)
    clear = img.info.get("transparency")
    hidden = a == clear if isinstance(clear, int) else None
    a[np.isnan(a)] = 0
    most = float(a.max(initial=0.0))
    # 16-bit files use 0..65535, the few 32-bit ones as much as they have; floating-point ones 0..1 or 0..255.
    top = max(65535.0, most) if img.mode.startswith("I") else 1.0 if most <= 1 else 255.0
    a.clip(0, top, out=a)
    a *= 255.0 / top
    grey = (a + 0.5).astype(np.uint8)
    if hidden is not None:
        grey[hidden] = paper
    return Image.fromarray(grey)


def _from_lab(img: Image.Image) -> Image.Image:
    from PIL import ImageCms

    out = ImageCms.profileToProfile(
        img, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    assert out is not None
    return out


def _ink_of(img: Image.Image, spec: ImageSpec) -> Pixels:
    x = _ink(_grey(_flat(img)), spec)
    if not x.any() and _see_through(img):  # white strokes on a transparent page
        x = _ink(_grey(_flat(img, paper=0)), spec)
    return x


def _grey(img: Image.Image) -> Grey:
    return np.asarray(img.convert("L"), dtype=np.float32)


def _ink(grey: Grey, spec: ImageSpec) -> Pixels:
    """Light strokes on black, cut out, scaled so that the longer side is `ink_px`, centred. Grey (H, W)."""
    edge = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    ink = np.abs(grey - np.median(edge))  # the background is what most of the border shows
    out = np.zeros(spec.view_shape, np.uint8)
    if ink.max() < BLANK:
        return out
    on = ink > 0.35 * ink.max()
    rows, cols = np.flatnonzero(on.any(1)), np.flatnonzero(on.any(0))
    cut = ink[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1] * (255.0 / ink.max())
    if spec.stroke_px:
        out[:] = _redrawn(cut, spec)[..., None]
        return out
    h, w = cut.shape
    scale = min(spec.height_px / h, spec.width_px / w)
    if spec.ink_px:
        scale = min(scale, spec.ink_px / max(h, w))
    h, w = max(1, round(h * scale)), max(1, round(w * scale))
    # BOX averages when it shrinks, but only repeats pixels when it enlarges.
    how = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
    small = np.asarray(Image.fromarray(cut).resize((w, h), how))
    small = small * (255.0 / float(small.max()))  # strokes thinner than a pixel are as bright as others
    y, x = (spec.height_px - h) // 2, (spec.width_px - w) // 2
    out[y : y + h, x : x + w] = (small.clip(0, 255) + 0.5).astype(np.uint8)[..., None]
    return out


FINE = 8  # lines are made thicker or thinner on a grid so many times finer than the result
WIDEST = 0.25  # a pen's width over its drawing's size: what seems wider is an area that was filled in
_PEN_SIDE = 160  # pixels: a pen's width is measured on a drawing of this size
_LOST = 0.02  # of the ink: what a disk as wide as the pen may leave uncovered, since pixels are no disks


def _redrawn(cut: Grey, spec: ImageSpec) -> Pixels:
    """`cut` (h, w), 0..255, as if drawn with a pen of `spec.stroke_px` pixels. Returns (height_px, width_px)."""
    pen = min(_pen(cut), WIDEST * max(cut.shape))
    # A pen adds its own width to a drawing; what is scaled is the way that it went.
    way_h, way_w = (max(1.0, n - pen) for n in cut.shape)
    most = spec.ink_px or max(spec.view_shape)
    room_h, room_w = (max(1.0, min(n, most) - spec.stroke_px) for n in spec.view_shape[:2])
    scale = min(room_h / way_h, room_w / way_w) * FINE
    h, w = (max(1, round(n * scale)) for n in cut.shape)
    fine = _resized(cut, h, w)
    # Paper on all sides: a line along the border has two edges too.
    sheet_h, sheet_w = max(spec.height_px * FINE, h + 2), max(spec.width_px * FINE, w + 2)
    sheet = np.zeros((sheet_h, sheet_w), bool)
    y, x = (sheet_h - h) // 2, (sheet_w - w) // 2
    sheet[y : y + h, x : x + w] = fine > 0.4 * fine.max()
    sheet = _widened(sheet, (spec.stroke_px * FINE - pen * scale) / 2)
    y, x = (sheet_h - spec.height_px * FINE) // 2, (sheet_w - spec.width_px * FINE) // 2
    sheet = sheet[y : y + spec.height_px * FINE, x : x + spec.width_px * FINE]
    share = sheet.reshape(spec.height_px, FINE, spec.width_px, FINE).mean((1, 3))
    pixels: Pixels = (share * 255 + 0.5).astype(np.uint8)
    return pixels


def _resized(grey: Grey, h: int, w: int) -> Grey:
    # BOX averages when it shrinks, but only repeats pixels when it enlarges.
    how = Image.Resampling.BOX if h < grey.shape[0] else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(grey).resize((w, h), how))


def _pen(cut: Grey) -> float:
    """The width in pixels of the pen that drew `cut`: of the widest disk that covers nearly all ink from inside."""
    k: float = min(1.0, _PEN_SIDE / max(cut.shape))
    h, w = (max(1, round(n * k)) for n in cut.shape)
    f = np.pad(_resized(cut, h, w), 1)
    f /= f.max()
    # Area over half the length of all edges: too wide where lines cross, touch or are filled in, never too narrow.
    width = float(2 * f.sum() / np.hypot(*np.gradient(f)).sum())
    if width < 4:  # a disk of so few pixels is none
        return width / k
    on = f > 0.5
    for radius in np.arange(width / 2, 1.5, -max(0.25, 0.025 * width)):
        covered = _near(~_near(~on, radius), radius)
        if (on & ~covered).sum() < _LOST * on.sum():
            return float(2 * radius + 0.5) / k
    return 3.0 / k


def _widened(on: Mask, by: float) -> Mask:
    """All lines `by` pixels wider on each side, or thinner; a line of which nothing would be left stays."""
    if abs(by) < 0.5:
        return on
    if by > 0:
        return _near(on, by)
    inner = ~_near(~on, -by)
    return inner | (on & ~_near(inner, 1 - by))


def _near(on: Mask, radius: float) -> Mask:
    """Pixels that lie within `radius` of one that is on; nothing is beyond the borders."""
    n = int(radius)
    y, x = np.mgrid[-n : n + 1, -n : n + 1]
    shape = [m + 2 * n for m in on.shape]
    disk = np.fft.rfft2((y**2 + x**2 <= radius**2).astype(np.float32), shape)
    count = np.fft.irfft2(np.fft.rfft2(on.astype(np.float32), shape) * disk, shape)
    return count[n : n + on.shape[0], n : n + on.shape[1]] > 0.5
