"""Drawings: whatever pen, colours and place they have, light strokes on black in the middle of a small sheet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from proj.preprocess.spec import ImageSpec

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Grey = np.ndarray[Any, np.dtype[np.float32]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

BLANK = 16  # grey levels: a page on which nothing stands out by more is empty


def draw(grey: Grey, spec: ImageSpec) -> Pixels:
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
