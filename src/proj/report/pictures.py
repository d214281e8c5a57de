"""Rows of the prepared data as pictures inside a page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np

from proj.report.read import Array, Prepared

TINY_PX = 64  # up to this side pictures are kept exactly (PNG) and enlarged in the page with crisp edges
EXAMPLES = 120  # of all classes together: more would make a page slow and heavy
EXAMPLE_PX = 96
MISTAKE_PX = 192


@dataclass(frozen=True)
class Picture:
    """A data URI; `tiny` ones are shown enlarged, pixel by pixel. `width` and `height` in px."""

    uri: str
    width: int
    height: int
    tiny: bool


def has_pictures(data: Prepared | None) -> bool:
    """Whether the prepared rows are pictures: uint8 (N, H, W, 1 or 3)."""
    return data is not None and data.x is not None and data.x.ndim == 4 and data.x.shape[-1] in (1, 3)


def picture(x: Array, side_px: int) -> Picture:
    """`x`: uint8 (H, W, 1 or 3). Larger ones are brought down to `side_px` and kept as JPEG."""
    from PIL import Image

    x = np.ascontiguousarray(x[..., 0] if x.shape[-1] == 1 else x)
    img, tiny = Image.fromarray(x), max(x.shape[:2]) <= TINY_PX
    file = io.BytesIO()
    if tiny:
        img.save(file, "PNG", optimize=True)
    else:
        img.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
        img.save(file, "JPEG", quality=80, optimize=True)
    kind = "png" if tiny else "jpeg"
    uri = f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
    return Picture(uri, img.width, img.height, tiny)


def examples(data: Prepared, classes: int) -> list[list[Picture]]:
    """Training pictures of the first classes, evenly spaced over each class's rows."""
    assert data.x is not None
    shown = min(classes, EXAMPLES // 2)
    each = max(2, min(10, EXAMPLES // max(shown, 1)))
    rows = [np.flatnonzero((data.split == 0) & (data.y == k)) for k in range(shown)]
    picked = [r[np.unique(np.linspace(0, len(r) - 1, min(each, len(r))).astype(int))] if len(r) else r for r in rows]
    return [[picture(data.x[i], EXAMPLE_PX) for i in some] for some in picked]
