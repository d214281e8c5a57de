"""The parts of a run report that show results: headline, tables, confusions, confidence, data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from proj import answers
from proj.report import elsewhere, measure, plots, traces
from proj.report import examples as training
from proj.report import mistakes as worst
from proj.report.matrix import matrix
from proj.report.values import scatters, target_headlines, target_table
from proj.report.words import label, number, share

if TYPE_CHECKING:
    from proj.report.measure import Gain, Intervals
    from proj.report.read import Material, Scores

PAIRS = 8
LONG = 20  # classes above which a table opens with its ten weakest and folds the rest
UNBALANCED = 1.5  # commonest to rarest class of the test, from which balanced accuracy is in large type


@dataclass(frozen=True)
class Headline:
    """A figure in large type, and under it what puts it in proportion."""

    label: str
    value: str
    notes: list[str]
    unit: str = ""


def sections(m: Material, found: Intervals) -> dict[str, Any]:
    """What `run.html` takes, by name; None for what there is not. `found`: the intervals of these figures."""
    s, p = m.scores, m.predictions
    classes = s is None or s.kind == "classes"
    confusion = s.confusion if s is not None and s.confusion is not None and s.confusion.any() else None
    calibrated = answers.calibration(p.said, p.y) if p is not None and classes and len(p.y) else None
    return {
        "headlines": headlines(m, found),
        "interval_note": found.note if found.ranges else "",
        "rest": rest(s),
        "n": tested(m),
        "folds": folds(s),
        "table": table(m, found),
        "matrix": matrix(confusion, s.names) if s is not None and confusion is not None else None,
        "pairs": measure.most_confused(confusion, s.names, PAIRS if len(s.names) <= 50 else 20)
        if s is not None and confusion is not None
        else None,
        "mistakes": worst.mistakes(m),
        "explained": worst.explained(m),
        "shows": m.prepared.shows if m.prepared is not None else "",
        "several_views": m.prepared is not None and m.prepared.x is not None and m.prepared.x.ndim == 5,
        "lanes": lanes(m),
        "calibrated": calibrated,
        "temperature": s.calibration if s is not None and classes else {},
        "confidence": plots.confidence(calibrated) if calibrated else "",
        "reliability": plots.reliability(calibrated) if calibrated else "",
        "coverage": measure.coverage(p.said, p.y) if p is not None and calibrated else [],
        "scatters": scatters(m),
        "others": elsewhere.table(m),
        "counts": counts(m),
        "examples": training.examples(m),
    }


def lanes(m: Material) -> tuple[int, int] | None:
    """How many of how many channels a trace shows, where that is not all."""
    if m.prepared is None or m.prepared.shows != "series":
        return None
    channels = len(m.prepared.channels)
    return (traces.LANES, channels) if channels > traces.LANES else None


def tested(m: Material) -> int:
    """How many items the figures rest on; 0 when no file says it."""
    if m.scores is not None and m.scores.confusion is not None:
        return int(m.scores.confusion.sum())
    return len(m.predictions.y) if m.predictions is not None else 0


def headlines(m: Material, found: Intervals) -> list[Headline]:
    """The one to three figures that a run is judged by."""
    s = m.scores
    if s is None:
        return []
    made = [
        Headline(label(name), share(value), [*_spread(s, name, share), *_notes(s, name, found)])
        for name, value in leading(s)
    ]
    if s.kind == "values":
        made = [
            Headline(label_, number(value), [*_spread(s, key, number), *notes, *_beside(s, key, number, found)], unit)
            for label_, key, value, unit, notes in target_headlines(m, found)
        ]
    return made or [Headline(label(name), number(v), _spread(s, name, number)) for name, v in [*s.metrics.items()][:3]]


def _spread(s: Scores, name: str, show: Callable[[float], str]) -> list[str]:
    return [f"± {show(s.std[name])} over {len(s.folds)} folds"] if s.folds and name in s.std else []


def leading(s: Scores) -> list[tuple[str, float]]:
    """Of classes: the task's own metric, accuracy, and what unequal classes do to it."""
    figures = s.mean if s.folds and s.mean else s.metrics
    if s.kind == "values" or not figures:
        return []
    by_class = s.confusion.sum(1) if s.confusion is not None and s.confusion.any() else np.ones(1)
    unbalanced = by_class.max() > UNBALANCED * max(by_class.min(), 1)
    second = "balanced_accuracy" if unbalanced and "balanced_accuracy" in figures else "macro_f1"
    own = next(iter(figures))
    wanted = dict.fromkeys([*([own] if own != "log_loss" else []), "accuracy", second])
    return [(name, figures[name]) for name in wanted if name in figures]


def rest(s: Scores | None) -> list[tuple[str, str]]:
    """The metrics that are not in large type; those of values stand in their table."""
    if s is None or s.kind == "values":
        return []
    large = {name for name, _ in leading(s)}
    return [(label(n), number(v)) for n, v in (s.mean if s.folds and s.mean else s.metrics).items() if n not in large]


def _notes(s: Scores, name: str, found: Intervals) -> list[str]:
    notes = []
    if name in found.ranges:
        low, high = found.ranges[name]
        notes.append(f"95 % interval {share(low)} to {share(high)}")
    if s.confusion is not None and s.confusion.any() and name == "accuracy" and not s.baselines:
        notes.append(f"always the commonest class: {share(s.confusion.sum(1).max() / s.confusion.sum())}")
    return notes + _beside(s, name, share, found)


def _beside(s: Scores, name: str, show: Callable[[float], str], found: Intervals) -> list[str]:
    """Each baseline's own figure, and by how much the strongest is beaten."""
    notes = [f"{b.name}: {show(b.metrics[name])}" for b in s.baselines if name in b.metrics]
    gain = found.gains.get(name)
    return [*notes, gained(gain, show)] if gain is not None else notes


def gained(g: Gain, show: Callable[[float], str]) -> str:
    """In words: "0.031 better than TF-IDF (0.012 to 0.050)"."""
    which = "better" if g.value >= 0 else "worse"
    ends = sorted([g.low, g.high] if g.value >= 0 else [-g.low, -g.high])
    return f"{show(abs(g.value))} {which} than {g.over} ({show(ends[0])} to {show(ends[1])})"


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


def table(m: Material, found: Intervals) -> dict[str, Any] | None:
    """Per class or per target: columns and rows; `short` holds the weakest classes when there are many."""
    s = m.scores
    if s is None:
        return None
    if s.kind == "values":
        return target_table(m, found)
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
