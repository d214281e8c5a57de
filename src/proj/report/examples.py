"""Training items as a reader should see them before believing any figure: pictures, quotes, small traces."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from proj.report import pictures, quotes, traces
from proj.report.mistakes import rounded
from proj.report.pictures import EXAMPLE_PX, Picture

if TYPE_CHECKING:
    from proj.report.prepared import Array, Prepared
    from proj.report.read import Material

MOST = {"image": 120, "series": 48, "text": 40}  # of all classes together: more make a page slow and heavy
EACH = {"image": 10, "series": 6, "text": 3}
VALUES = 12  # of a task with values


@dataclass(frozen=True)
class Example:
    """Training items under one name: a class, or of a task with values what one item is worth."""

    name: str
    pictures: list[Picture] = field(default_factory=list)
    quotes: list[str] = field(default_factory=list)
    traces: list[str] = field(default_factory=list)


def examples(m: Material) -> list[Example]:
    """Of the first classes, evenly spaced over each class's rows; of values evenly from the smallest to the largest."""
    data = m.prepared
    if data is None or not data.shows:
        return []
    if data.y.ndim != 1:
        return _of_values(m, data)
    shown = min(len(m.names), MOST[data.shows] // 2)
    each = max(2, min(EACH[data.shows], MOST[data.shows] // max(shown, 1)))
    rows = [np.flatnonzero((data.split == 0) & (data.y == k)) for k in range(shown)]
    return [_example(data, m.names[k], _spaced(r, each)) for k, r in enumerate(rows)]


def _of_values(m: Material, data: Prepared) -> list[Example]:
    train = np.flatnonzero(data.split == 0)
    picked = _spaced(train[np.argsort(data.y[train, 0], kind="stable")], VALUES)
    units = [str(u) for u in (m.scores and m.scores.units) or data.meta.get("units") or [""] * len(m.names)]
    return [
        _example(
            data,
            ", ".join(
                f"{name} {rounded(float(v))} {unit}".strip()
                for name, v, unit in zip(m.names, data.y[i], units, strict=False)
            ),
            np.array([i]),
        )
        for i in picked.tolist()
    ]


def _spaced(rows: Array, most: int) -> Array:
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int))] if len(rows) else rows


def _example(data: Prepared, name: str, rows: Array) -> Example:
    each = rows.tolist()
    if data.shows == "text":
        return Example(name, quotes=[quotes.quote(data.text(i)) for i in each])
    assert data.x is not None
    if data.shows == "series":
        return Example(name, traces=[traces.trace(data.x[i], data.channels, small=True) for i in each])
    several = len(each) == 1  # all views of one thing; of a class the first of each
    shown = [view for i in each for view in (pictures.views(data, i) if several else pictures.views(data, i)[:1])]
    return Example(name, pictures=[pictures.picture(x, EXAMPLE_PX) for x in shown])
