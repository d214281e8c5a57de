"""Series inside a page: a lane a channel, each on its own scale, drawn as SVG in the page's colours."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from proj.report.prepared import Array

WIDTH, LANE, LABEL = 260, 24, 46  # px
POINTS = 120  # of a lane; more are thinned
LANES = 8  # those that weighed or moved most, where there are more channels
LABEL_CHARS = 7


def trace(x: Array, channels: list[str], heat: Array | None = None, *, small: bool = False) -> str:
    """`x` float (steps, channels); `heat` of the same shape, 0..1, is tinted behind. `small`: without names."""
    x = np.nan_to_num(np.asarray(x, np.float64))
    heat = heat if heat is not None and heat.shape == x.shape else None
    lanes = _lanes(x, heat, 3 if small else LANES)
    left, lane = (0, 14) if small else (LABEL, LANE)
    width = 96 if small else WIDTH
    height = lane * len(lanes)
    parts = [
        f'<svg class="trace" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(_said(x, channels))}">'
    ]
    for at, c in enumerate(lanes):
        top = at * lane
        if heat is not None:
            parts += _tints(heat[:, c], left, width, top, lane)
        if not small:
            name = channels[c] if len(channels[c]) <= LABEL_CHARS else channels[c][: LABEL_CHARS - 1] + "…"
            parts.append(f'<text x="0" y="{top + lane / 2:g}">{escape(name)}</text>')
        parts.append(f'<path d="{_line(x[:, c], left, width, top, lane)}"/>')
    return "".join([*parts, "</svg>"])


def _said(x: Array, channels: list[str]) -> str:
    return f"{x.shape[0]} steps of {', '.join(channels[:12])}"


def _lanes(x: Array, heat: Array | None, most: int) -> list[int]:
    if x.shape[1] <= most:
        return [*range(x.shape[1])]
    weight = heat.sum(0) if heat is not None else x.std(0) / np.maximum(np.abs(x).mean(0), 1e-12)
    return sorted(np.argsort(-weight, kind="stable")[:most].tolist())


def _line(v: Array, left: int, width: int, top: int, lane: int) -> str:
    at = np.unique(np.linspace(0, len(v) - 1, min(len(v), POINTS)).astype(int))
    low, spread = float(v.min()), float(v.max() - v.min())
    share = (v[at] - low) / spread if spread > 0 else np.full(len(at), 0.5)
    xs = left + (at + 0.5) / len(v) * (width - left)
    ys = top + lane - 3 - share * (lane - 6)
    if len(at) == 1:
        return f"M{xs[0] - 2:.1f} {ys[0]:.1f}h4"
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(xs, ys, strict=True))


def _tints(v: Array, left: int, width: int, top: int, lane: int) -> list[str]:
    """A rectangle for each stretch of steps of equal heat."""
    edges = np.flatnonzero(np.diff(v)) + 1
    step = (width - left) / len(v)
    return [
        f'<rect x="{left + a * step:.1f}" y="{top}" width="{(b - a) * step:.1f}" height="{lane}" '
        f'fill-opacity="{0.7 * min(float(v[a]), 1):.2f}"/>'
        for a, b in zip([0, *edges.tolist()], [*edges.tolist(), len(v)], strict=True)
        if v[a] >= 0.03
    ]
