"""The worst answers, each with what the model was given and what weighed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from proj import answers
from proj.report import pictures, quotes, traces
from proj.report.pictures import MISTAKE_PX, Picture

if TYPE_CHECKING:
    from proj.report.quotes import Piece
    from proj.report.read import Look, Material, Predictions, Scores


@dataclass(frozen=True)
class Mistake:
    """`lines` are (what, value) in reading order: true, said, ... The input is pictures, a trace or a text's pieces."""

    id: str
    lines: list[tuple[str, str]]
    pictures: list[Picture] = field(default_factory=list)
    trace: str = ""
    pieces: list[Piece] = field(default_factory=list)


def mistakes(m: Material) -> list[Mistake] | None:
    """The worst answers: the surest wrong ones, or the values furthest off. None without predictions."""
    s, p = m.scores, m.predictions
    if p is None:
        return None
    kind = "values" if s is not None and s.kind == "values" else "classes"
    names = m.names or [str(k) for k in range(p.said.shape[1])]
    return [
        _mistake(m, p, i, _values(s, p, i) if s is not None and kind == "values" else _answer(p, i, names))
        for i in answers.worst(p.said, p.y, kind).tolist()
    ]


def explained(m: Material) -> bool:
    """Whether it is known of any of them what weighed."""
    p = m.predictions
    return p is not None and bool(np.isin(p.index, [*m.looks]).any())


def _mistake(m: Material, p: Predictions, i: int, lines: list[tuple[str, str]]) -> Mistake:
    row, name = int(p.index[i]), str(p.id[i])
    look, data = m.looks.get(row), m.prepared
    shows = data.shows if data is not None else ""
    if look is not None and look.text:
        return Mistake(name, lines, pieces=quotes.marked(look.text, look.spans))
    if data is None or not shows:
        return Mistake(name, lines)
    if shows == "text":
        return Mistake(name, lines, pieces=quotes.marked(data.text(row), ()))
    if shows == "series":
        assert data.x is not None
        return Mistake(name, lines, trace=traces.trace(data.x[row], data.channels, look.heat if look else None))
    return Mistake(name, lines, pictures=_pictures(m, row, look))


def _pictures(m: Material, row: int, look: Look | None) -> list[Picture]:
    """Each view, and right after it where the model looked."""
    assert m.prepared is not None
    seen = pictures.views(m.prepared, row)
    heats = [] if look is None or look.heat is None else [look.heat] if look.heat.ndim == 2 else [*look.heat]
    shown = []
    for v, x in enumerate(seen):
        shown.append(pictures.picture(x, MISTAKE_PX))
        if v < len(heats):
            shown.append(pictures.heated(x, heats[v], MISTAKE_PX))
    return shown


def _answer(p: Predictions, i: int, names: list[str]) -> list[tuple[str, str]]:
    said, true = int(p.said[i].argmax()), int(p.y[i])
    return [
        ("said", f"{names[said]} {p.said[i, said]:.2f}"),
        ("true", f"{names[true]} {p.said[i, true]:.2f}"),
    ]


def _values(s: Scores, p: Predictions, i: int) -> list[tuple[str, str]]:
    units = s.units or [""] * len(s.names)
    triples = zip(s.names, p.said[i], p.y[i], units, strict=False)
    return [
        (name, f"{rounded(float(said))} for {rounded(float(true))} {unit}".strip())
        for name, said, true, unit in triples
    ]


def rounded(value: float) -> str:
    """Three digits that matter, never as a power of ten."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
