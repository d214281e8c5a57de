"""Pictures: from a file as people have it to uint8 pixels."""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from proj.errors import InputError, InputTooLarge, UnsupportedInput
from proj.preprocess import ink, modes, photo
from proj.preprocess.photo import Pixels
from proj.preprocess.spec import ImageSpec

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # a phone's MPO opens as its JPEG
DEFAULT_MAX_PIXELS = 64_000_000  # twice a 32-megapixel camera; larger ones are taken for decompression bombs
SIDEWAYS = frozenset({5, 6, 7, 8})  # EXIF orientations that change width and height


def decode(source: bytes | Path | Pixels, spec: ImageSpec, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Pixels:
    """Decode and bring to `spec.view_shape`, uint8. Training, predict and server get the same pixels of one file.

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
            return _fit(_from_array(x), 1, spec)
        if spec.fit == "squash":
            fast = _plain_jpeg(source, spec, max_pixels)
            if fast is not None:
                return fast
        return _fit(*_open(source, spec, max_pixels), spec)
    except MemoryError:
        raise InputTooLarge("the picture does not fit into memory") from None


def _plain_jpeg(source: bytes | Path, spec: ImageSpec, max_pixels: int) -> Pixels | None:
    """What most photos are, without Pillow; None for all else, and for what is broken: Pillow says how."""
    content = source if isinstance(source, bytes) else _jpeg_file(source)
    size = photo.jpeg_size(content)
    if size is None:
        return None
    _check_size(*size, max_pixels)
    turn = 1
    if photo.METADATA in content:
        with _opened(content) as img:
            turn = _orientation(img)
    x = photo.jpeg(content, size, _box(spec, turn), grey=spec.channels == 1)
    return None if x is None else _squash(x, turn, spec)


def _jpeg_file(path: Path) -> bytes:
    """The content of a file that starts as a JPEG does; of anything else nothing is read (a pipe is read but once)."""
    try:
        if path.is_file():
            with path.open("rb") as f:
                start = f.read(2)
                return start + f.read() if start == photo.START else b""
    except OSError:  # Pillow's route says why
        pass
    return b""


def _check_size(w: int, h: int, max_pixels: int) -> None:
    if w * h > max_pixels:
        raise InputTooLarge(f"the picture has {w} x {h} pixels", found=f"the limit is {max_pixels:,}")


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
        sideways = img.format != "TIFF" and _orientation(img) in SIDEWAYS  # Pillow turns a TIFF itself
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


def _open(source: bytes | Path, spec: ImageSpec, max_pixels: int) -> tuple[Image.Image, int]:
    """Read a file's first frame as it is stored, in its own mode. Returns it and its EXIF orientation."""
    with _opened(source) as img:
        _check_size(*img.size, max_pixels)
        try:
            if spec.fit == "squash" and img.format == "JPEG":
                img.draft(None, _box(spec, _orientation(img)))  # decoded at a fraction, as `photo.jpeg` does
            img.seek(0)
            img.load()
        except MemoryError:
            raise
        except Exception as e:  # decoders raise what they meet: OSError, ValueError, struct.error
            raise _broken(e) from None
        # The copy outlives the file. Pillow itself has turned a TIFF by now, and taken the tag away.
        return img.copy(), _orientation(img)


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


def _fit(img: Image.Image, orientation: int, spec: ImageSpec) -> Pixels:
    if spec.fit == "ink":
        return _ink(img, orientation, spec)
    img = modes.flat(img)
    return _squash(np.asarray(img.convert("L") if spec.channels == 1 else img), orientation, spec)


def _box(spec: ImageSpec, orientation: int) -> tuple[int, int]:
    """Width and height that a picture gets before it is turned upright."""
    w, h = spec.width_px, spec.height_px
    return (h, w) if orientation in SIDEWAYS else (w, h)


def _squash(x: Pixels, orientation: int, spec: ImageSpec) -> Pixels:
    """`x` (h, w), (h, w, 1) or, unless `spec` is grey, (h, w, 3)."""
    x = photo.upright(photo.resize(x, *_box(spec, orientation)), orientation)
    if x.ndim == 2:
        x = x[..., None]
    if x.shape[-1] != spec.channels:
        x = x.repeat(spec.channels, axis=-1)
    return np.require(x, requirements=["C", "W"])


def _ink(img: Image.Image, orientation: int, spec: ImageSpec) -> Pixels:
    x = ink.draw(photo.upright(_grey(modes.flat(img)), orientation), spec)
    if not x.any() and modes.see_through(img):  # white strokes on a transparent page
        x = ink.draw(photo.upright(_grey(modes.flat(img, paper=0)), orientation), spec)
    return x


def _grey(img: Image.Image) -> ink.Grey:
    return np.asarray(img.convert("L"), dtype=np.float32)
