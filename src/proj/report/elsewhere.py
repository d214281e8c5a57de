"""How far a score carries: the same model on other sources of its task."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from proj.report import measure
from proj.report.words import label, listed, number, share

if TYPE_CHECKING:
    from proj.report.read import Material, Other, Scores

WORSE = 0.05  # a fall of an accuracy that is worth a sentence
MUCH_LARGER = 1.25  # likewise of an error


def table(m: Material) -> dict[str, Any] | None:
    """A row a source under one of the run's own test split; None where there is no other source."""
    s = m.scores
    if s is None or not m.others:
        return None
    own = s.mean if s.folds and s.mean else s.metrics
    columns = [n for n in own if any(n in o.metrics for o in m.others)][:6]
    show = share if s.kind == "classes" else number
    n = len(m.predictions.y) if m.predictions is not None else None
    rows = [{"source": "its own test split", "rows": n, "date": "", "unknown": "", "cells": _cells(own, columns, show)}]
    rows += [
        {
            "source": o.source,
            "rows": o.rows,
            "date": o.date[:10],
            "unknown": ", ".join(f"{k}: {c:,}" for k, c in o.unknown.items()),
            "cells": _cells(o.metrics, columns, show),
        }
        for o in m.others
    ]
    return {"columns": [label(c) for c in columns], "rows": rows, "unknown": any(o.unknown for o in m.others)}


def _cells(metrics: dict[str, float], columns: list[str], show: Any) -> list[str]:
    return [show(metrics.get(c, math.nan)) for c in columns]


def found(m: Material) -> Iterator[tuple[str, bool]]:
    """Sentences on what a fall on another source says of the model, and whether each is serious."""
    s = m.scores
    for o in m.others if s is not None else []:
        assert s is not None
        text = _values(s, o) if s.kind == "values" else _classes(s, o)
        if text:
            yield text, True
        if o.unknown:
            yield (
                f"Left out of the score on {o.source}: classes that the model does not know, {listed([*o.unknown])}.",
                False,
            )


def _classes(s: Scores, o: Other) -> str:
    own = s.mean if s.folds and s.mean else s.metrics
    name = next((n for n in ("balanced_accuracy", "accuracy") if n in o.metrics and n in own), "")
    if not name or not o.rows:
        return ""
    there, chance = o.metrics[name], 1 / max(len(s.names), 1)
    low, _ = measure.wilson(there * o.rows, o.rows)
    figures = f"{label(name)} {share(there)} on {o.rows:,} rows, {share(own[name])} on its own test split"
    if low <= chance:
        return f"At chance on {o.source}: {figures}. What it learned does not carry there."
    return f"Worse on {o.source}: {figures}." if there < own[name] - WORSE else ""


def _values(s: Scores, o: Other) -> str:
    own = s.mean if s.folds and s.mean else s.metrics
    worse = [
        f"{label(k)} {number(v)} instead of {number(own[k])}"
        for k, v in o.metrics.items()
        if k.endswith("_mae") and k in own and v > MUCH_LARGER * own[k]
    ]
    lost = [k[:-3] for k, v in o.metrics.items() if k.endswith("_r2") and v <= 0]
    if lost:
        said = f" ({'; '.join(worse)})" if worse else ""
        return f"On {o.source} no better than its mean value for {listed(lost)}{said}."
    return f"Worse on {o.source}: {'; '.join(worse)}." if worse else ""
