"""Figures that a report adds to those in metrics.json: intervals, calibration, coverage, confusions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from proj.report.read import Array, Material

Z = 1.959964  # two-sided 95 %
THRESHOLDS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
BOOTSTRAP_DRAWS = 1000
FEW_GROUPS = 10  # fewer say too little about how groups differ
MANY_GROUPS = 5_000  # above, drawing groups takes seconds and hardly differs from drawing items


def wilson(right: float, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927), fit for small n and for shares near 0 and 1."""
    if n == 0:
        return 0.0, 1.0
    p = right / n
    middle = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class Intervals:
    """95 % intervals by metric, and in a sentence what they rest on."""

    ranges: dict[str, tuple[float, float]]
    note: str


def intervals(m: Material) -> Intervals:
    """By group where groups are known and neither few nor very many; else the accuracy's alone, by item."""
    s, p = m.scores, m.predictions
    if s is None or s.kind != "classes" or s.confusion is None or not s.confusion.any():
        return Intervals({}, "")
    by_item = wilson(float(s.confusion.trace()), int(s.confusion.sum()))
    group = m.prepared.group if m.prepared is not None else None
    if p is None or group is None or not FEW_GROUPS <= len(np.unique(group[p.index])) <= MANY_GROUPS:
        note = "The interval takes test items for independent; alike neighbours make it too narrow."
        return Intervals({"accuracy": by_item}, note)
    ranges = by_group(p.y, p.said.argmax(1), group[p.index], p.said.shape[1])
    # Drawing anew from answers that are (nearly) all right promises perfection: never narrower than by item.
    low, high = ranges["accuracy"]
    ranges["accuracy"] = min(low, by_item[0]), max(high, by_item[1])
    if ranges["macro_f1"][0] == 1.0:
        del ranges["macro_f1"]
    n = len(np.unique(group[p.index]))
    note = f"The intervals come from drawing anew among the {n:,} groups of alike items in the test."
    return Intervals(ranges, note)


def by_group(true: Array, said: Array, group: Array, classes: int) -> dict[str, tuple[float, float]]:
    """95 % bootstrap intervals of accuracy and macro F1, drawing whole groups, with a fixed seed.

    `true`, `said` and `group` are (N,): neighbouring items of a group are alike, so drawing single ones would
    promise too much.
    """
    _, of = np.unique(group, return_inverse=True)
    groups = int(of.max()) + 1
    draws = np.random.default_rng(0).multinomial(groups, np.full(groups, 1 / groups), size=BOOTSTRAP_DRAWS)

    def drawn(values: Array, kept: Array) -> Array:
        """How many of the drawn items have each class: float64 (draws, classes)."""
        count = np.zeros((groups, classes))
        np.add.at(count, (of[kept], values[kept]), 1.0)
        return np.asarray(draws @ count)

    everything = np.ones(len(of), bool)
    trues, answers, hits = drawn(true, everything), drawn(said, everything), drawn(true, true == said)
    there = np.union1d(true, said)  # a class that is neither asked nor answered has no F1
    f1 = (2 * hits / np.maximum(trues + answers, 1))[:, there].mean(1)
    accuracy = hits.sum(1) / np.maximum(trues.sum(1), 1)
    return {"accuracy": _middle(accuracy), "macro_f1": _middle(f1)}


def _middle(values: Array) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


@dataclass(frozen=True)
class Confused:
    """`count` of the `of` items of class `true` were taken for `said`."""

    true: str
    said: str
    count: int
    of: int


def most_confused(confusion: Array, names: list[str], limit: int) -> list[Confused]:
    """The wrong answers that came most often, by count, then by share of their class."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    of = confusion.sum(1)
    pairs = [(int(wrong[i, j]), wrong[i, j] / of[i], -i, -j) for i, j in zip(*np.nonzero(wrong), strict=True)]
    return [Confused(names[-i], names[-j], c, int(of[-i])) for c, _, i, j in sorted(pairs, reverse=True)[:limit]]


@dataclass(frozen=True)
class Bin:
    """Answers whose confidence lies in [low, high): how many, how sure on average, how many right."""

    low: float
    high: float
    n: int
    right: int
    confidence: float


@dataclass(frozen=True)
class Calibration:
    """`confidence` and `accuracy` are means; `error` is the expected calibration error (ECE)."""

    bins: list[Bin]
    n: int
    confidence: float
    accuracy: float
    error: float


def calibration(prob: Array, y: Array, bins: int = 10) -> Calibration:
    """Compare how sure the answers are with how often they are right. `prob` (N, K), N > 0."""
    top, right = prob.max(1).astype(np.float64), prob.argmax(1) == y
    which = np.minimum((top * bins).astype(int), bins - 1)
    made = [
        Bin(
            b / bins,
            (b + 1) / bins,
            int(m.sum()),
            int(right[m].sum()),
            float(top[m].mean()) if m.any() else 0.0,
        )
        for b in range(bins)
        for m in [which == b]
    ]
    error = sum(abs(b.right - b.confidence * b.n) for b in made) / len(y)
    return Calibration(made, len(y), float(top.mean()), float(right.mean()), float(error))


def coverage(prob: Array, y: Array) -> list[dict[str, Any]]:
    """If only answers at least this sure count: the share that is answered, and how often it is right."""
    top, right = prob.max(1), prob.argmax(1) == y
    rows = []
    for t in THRESHOLDS:
        kept = top >= t
        if kept.any():
            rows.append({"threshold": t, "share": float(kept.mean()), "accuracy": float(right[kept].mean())})
    return rows


def worst_classes(prob: Array, y: Array, limit: int) -> Array:
    """Rows of the wrong answers, the surest first."""
    top, said = prob.max(1), prob.argmax(1)
    wrong = np.flatnonzero(said != y)
    return wrong[np.argsort(-top[wrong], kind="stable")][:limit]


def worst_values(pred: Array, y: Array, limit: int) -> Array:
    """Rows whose values are furthest off, each target measured in its own standard deviations."""
    if not len(y):
        return np.zeros(0, np.int64)
    spread = np.maximum(y.std(0), 1e-12)
    off = (np.abs(pred - y) / spread).mean(1)
    return np.argsort(-off, kind="stable")[:limit]


def per_target(pred: Array, y: Array, names: list[str]) -> dict[str, dict[str, float]]:
    """Mean absolute error, root mean square error, bias (in the target's unit) and R² of each target."""
    off = (pred - y).astype(np.float64)
    var = np.maximum(((y - y.mean(0)) ** 2).mean(0), 1e-24)
    return {
        name: {
            "mae": float(np.abs(off[:, t]).mean()),
            "rmse": float(np.sqrt((off[:, t] ** 2).mean())),
            "bias": float(off[:, t].mean()),
            "r2": float(1 - (off[:, t] ** 2).mean() / var[t]),
        }
        for t, name in enumerate(names)
    }
