"""Rows of the prepared data as pictures inside a page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

    from proj.report.prepared import Array, Prepared

TINY_PX = 64  # up to this side pictures are kept exactly (PNG) and enlarged in the page with crisp edges
EXAMPLE_PX = 96
MISTAKE_PX = 192
VIEWS = 4  # shown of one thing
WARM = np.array([255, 122, 0], np.float32)  # the colour of what the model looked at


@dataclass(frozen=True)
class Picture:
    """A data URI; `tiny` ones are shown enlarged, pixel by pixel. `width` and `height` in px."""

    uri: str
    width: int
    height: int
    tiny: bool
    what: str = ""


def views(data: Prepared, i: int) -> list[Array]:
    """The pictures of row `i`, uint8 (H, W, C) each."""
    assert data.x is not None
    x = np.asarray(data.x[i])
    return [*x[:VIEWS]] if x.ndim == 4 else [x]


def picture(x: Array, side_px: int) -> Picture:
    """`x`: uint8 (H, W, 1 or 3). Larger ones are brought down to `side_px` and kept as JPEG."""
    from PIL import Image

    img, tiny = _image(x), max(x.shape[:2]) <= TINY_PX
    if not tiny:
        img.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    return _encoded(img, tiny)


def heated(x: Array, heat: Array, side_px: int) -> Picture:
    """The picture dimmed and grey, with `heat` (h, w), 0..1, over it."""
    from PIL import Image

    img = _image(x).convert("L")
    scale = side_px / max(img.size)
    size = (max(1, round(img.width * scale)), max(1, round(img.height * scale)))
    tiny = max(x.shape[:2]) <= TINY_PX
    grey = np.asarray(img.resize(size, Image.Resampling.NEAREST if tiny else Image.Resampling.LANCZOS), np.float32)
    smooth = Image.fromarray(np.asarray(heat, np.float32)).resize(size, Image.Resampling.BILINEAR)
    a = 0.75 * np.clip(np.asarray(smooth), 0, 1)[..., None]
    mixed = (0.72 * grey[..., None] + 24) * (1 - a) + WARM * a
    return _encoded(Image.fromarray(np.clip(mixed, 0, 255).astype(np.uint8)), False, "where it looked")


def _image(x: Array) -> Image.Image:
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(x[..., 0] if x.shape[-1] == 1 else x))


def _encoded(img: Image.Image, tiny: bool, what: str = "") -> Picture:
    file = io.BytesIO()
    if tiny:
        img.save(file, "PNG", optimize=True)
    else:
        img.save(file, "JPEG", quality=80, optimize=True)
    kind = "png" if tiny else "jpeg"
    uri = f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
    return Picture(uri, img.width, img.height, tiny, what)
