"""The parts of a run report that show results: headline, tables, confusions, mistakes, confidence, data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from proj.report import measure, pictures, plots
from proj.report.findings import share
from proj.report.matrix import matrix
from proj.report.pictures import MISTAKE_PX, Picture
from proj.report.read import Material, Predictions, Scores

MISTAKES = 24
PAIRS = 8
LONG = 20  # classes above which a table opens with its ten weakest and folds the rest
LABELS = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "f1": "F1",
    "ece": "calibration error",
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R²",
}


@dataclass(frozen=True)
class Headline:
    """A figure in large type, and under it what puts it in proportion."""

    label: str
    value: str
    notes: list[str]


@dataclass(frozen=True)
class Mistake:
    """`lines` are (what, value) in reading order: true, said, ..."""

    id: str
    picture: Picture | None
    lines: list[tuple[str, str]]


def sections(m: Material) -> dict[str, Any]:
    """What `run.html` takes, by name; None for what there is not."""
    s, p = m.scores, m.predictions
    classes = s is None or s.kind == "classes"
    confusion = s.confusion if s is not None and s.confusion is not None and s.confusion.any() else None
    calibrated = measure.calibration(p.said, p.y) if p is not None and classes and len(p.y) else None
    return {
        "headlines": headlines(m),
        "interval_note": measure.intervals(m).note if s is not None and not s.folds else "",
        "rest": rest(s),
        "n": tested(m),
        "folds": folds(s),
        "table": table(m),
        "matrix": matrix(confusion, s.names) if s is not None and confusion is not None else None,
        "pairs": measure.most_confused(confusion, s.names, PAIRS if len(s.names) <= 50 else 20)
        if s is not None and confusion is not None
        else None,
        "mistakes": mistakes(m),
        "calibrated": calibrated,
        "confidence": plots.confidence(calibrated) if calibrated else "",
        "reliability": plots.reliability(calibrated) if calibrated else "",
        "coverage": measure.coverage(p.said, p.y) if p is not None and calibrated else [],
        "scatters": scatters(m),
        "counts": counts(m),
        "examples": pictures.examples(m.prepared, len(m.names))
        if m.prepared is not None and m.prepared.y.ndim == 1 and pictures.has_pictures(m.prepared)
        else [],
        "has_pictures": pictures.has_pictures(m.prepared),
    }


def label(name: str) -> str:
    return LABELS.get(name, name.replace("_", " "))


def number(value: float) -> str:
    return "–" if not math.isfinite(value) else f"{value:.4g}"


def rounded(value: float) -> str:
    """Three digits that matter, never as a power of ten."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def tested(m: Material) -> int:
    """How many items the figures rest on; 0 when no file says it."""
    if m.scores is not None and m.scores.confusion is not None:
        return int(m.scores.confusion.sum())
    return len(m.predictions.y) if m.predictions is not None else 0


def headlines(m: Material) -> list[Headline]:
    """The one to three figures that a run is judged by."""
    s = m.scores
    if s is None:
        return []
    if s.folds:
        return [Headline(label(name), share(v), _spread(s, name)) for name, v in [*s.mean.items()][:3]]
    show = share if s.kind == "classes" else number
    ranges = measure.intervals(m).ranges
    return [Headline(label(name), show(v), _notes(s, name, ranges.get(name))) for name, v in _leading(s)]


def _spread(s: Scores, name: str) -> list[str]:
    return [f"± {share(s.std[name])} over {len(s.folds)} folds"] if name in s.std else []


def _leading(s: Scores) -> list[tuple[str, float]]:
    first = [(name, v) for name, v in s.metrics.items() if name in ("accuracy", "macro_f1")]
    return first or [*s.metrics.items()][:3]


def rest(s: Scores | None) -> list[tuple[str, str]]:
    """The metrics that are not in large type."""
    large = {name for name, _ in _leading(s)} if s and not s.folds else set()
    return [(label(n), number(v)) for n, v in s.metrics.items() if n not in large] if s and not s.folds else []


def _notes(s: Scores, name: str, interval: tuple[float, float] | None) -> list[str]:
    notes = [f"95 % interval {share(interval[0])} to {share(interval[1])}"] if interval else []
    if s.confusion is not None and s.confusion.any() and name == "accuracy" and not s.baseline:
        notes.append(f"always the commonest class: {share(s.confusion.sum(1).max() / s.confusion.sum())}")
    simple = dict(s.baseline.get("metrics") or {}).get(name)
    if isinstance(simple, int | float):
        shown = share(simple) if s.kind == "classes" else number(simple)
        notes.append(f"{s.baseline.get('name', 'baseline')}: {shown}")
    return notes


def folds(s: Scores | None) -> dict[str, Any] | None:
    """Rows of the fold table: columns, one row a fold, means ± spread."""
    if s is None or not s.folds:
        return None
    show = share if s.kind == "classes" else number
    columns = list(dict.fromkeys(name for f in s.folds for name in f.get("metrics") or {}))
    rows = [
        {
            "fold": f.get("fold", i),
            "seconds": f.get("seconds"),
            "cells": [_cell(f.get("metrics") or {}, c, show) for c in columns],
        }
        for i, f in enumerate(s.folds)
    ]
    ends = [f"{_cell(s.mean, c, show)} ± {_cell(s.std, c, show)}" if c in s.mean else "–" for c in columns]
    return {"columns": [label(c) for c in columns], "rows": rows, "ends": ends}


def _cell(metrics: dict[str, Any], name: str, show: Callable[[float], str] = number) -> str:
    value = metrics.get(name)
    return show(float(value)) if isinstance(value, int | float) else "–"


def table(m: Material) -> dict[str, Any] | None:
    """Per class or per target: columns and rows; `short` holds the weakest classes when there are many."""
    s = m.scores
    if s is None:
        return None
    if s.kind == "values":
        return _target_table(s, m.predictions)
    columns = ("precision", "recall", "f1")
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "cells": [share(figures.get(c, math.nan)) for c in columns],
            "f1": figures.get("f1", 0.0),
            "support": f"{figures.get('support', 0):,.0f}",
        }
        for name, figures in s.per_class.items()
    ]
    short = sorted(rows, key=lambda row: float(row["f1"]))[:10] if len(rows) > LONG else []
    return {"columns": [label(c) for c in columns], "rows": rows, "short": short} if rows else None


def _target_table(s: Scores, p: Predictions | None) -> dict[str, Any] | None:
    each = s.per_target
    if not each and p is not None and len(p.y):
        each = measure.per_target(p.said, p.y, s.names)
    columns = list(dict.fromkeys(c for figures in each.values() for c in figures))
    units = dict(zip(s.names, s.units, strict=False))
    rows = [
        {"name": name, "unit": units.get(name, ""), "cells": [_cell(figures, c) for c in columns]}
        for name, figures in each.items()
    ]
    return {"columns": [label(c) for c in columns], "rows": rows, "short": []} if rows else None


def mistakes(m: Material) -> list[Mistake] | None:
    """The worst answers: the surest wrong ones, or the values furthest off. None without predictions."""
    s, p = m.scores, m.predictions
    if p is None:
        return None
    if s is not None and s.kind == "values":
        return [
            Mistake(str(p.id[i]), _shown(m, p, i), _values(s, p, i))
            for i in measure.worst_values(p.said, p.y, MISTAKES)
        ]
    names = m.names or [str(k) for k in range(p.said.shape[1])]
    return [
        Mistake(str(p.id[i]), _shown(m, p, i), _answer(p, i, names))
        for i in measure.worst_classes(p.said, p.y, MISTAKES)
    ]


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


def _shown(m: Material, p: Predictions, i: int) -> Picture | None:
    if m.prepared is None or m.prepared.x is None or not pictures.has_pictures(m.prepared):
        return None
    return pictures.picture(m.prepared.x[int(p.index[i])], MISTAKE_PX)


def scatters(m: Material) -> list[dict[str, str]]:
    """True against said, a chart a target."""
    s, p = m.scores, m.predictions
    if s is None or p is None or s.kind != "values" or not len(p.y):
        return []
    units = s.units or [""] * len(s.names)
    return [
        {"name": name, "unit": unit, "svg": plots.scatter(t, p.y[:, t], p.said[:, t])}
        for t, (name, unit) in enumerate(zip(s.names, units, strict=False))
    ]


def counts(m: Material) -> dict[str, Any] | None:
    """Items per split, and per class and split with each bar's share of the largest class."""
    d = m.prepared
    if d is None:
        return None
    total = [int(n) for n in np.bincount(d.split.astype(int), minlength=3)[:3]]
    if d.y.ndim != 1 or not np.issubdtype(d.y.dtype, np.integer):
        return {"total": total, "rows": []}
    per = np.stack([np.bincount(d.y[d.split == k].astype(int), minlength=len(m.names)) for k in range(3)], 1)
    most = max(1, int(per.sum(1).max()))
    rows = [{"name": n, "counts": [int(c) for c in row], "shares": [100 * float(c) / most for c in row]}
            for n, row in zip(m.names, per, strict=False)]  # fmt: skip
    return {"total": total, "rows": rows}
