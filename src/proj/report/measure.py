"""Figures that a report adds to those in metrics.json: intervals, gains over a baseline, coverage, confusions."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from proj.report.read import Array, Baseline, Material, Predictions, Scores

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
class Gain:
    """By how much the model beats the strongest baseline on the same rows, and the 95 % interval of that."""

    over: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Intervals:
    """95 % intervals by metric, what they rest on in a sentence, and gains over the strongest baseline."""

    ranges: dict[str, tuple[float, float]]
    note: str
    gains: dict[str, Gain] = field(default_factory=dict)


ITEMS = "The interval takes test items for independent; alike neighbours make it too narrow."


def intervals(m: Material) -> Intervals:
    """By group where groups are known and not few; else by item. Differences from a baseline are paired."""
    s, p = m.scores, m.predictions
    if s is None or (p is None and (s.confusion is None or not s.confusion.any())):
        return Intervals({}, "")
    if p is None:
        assert s.confusion is not None
        return Intervals({"accuracy": wilson(float(s.confusion.trace()), int(s.confusion.sum()))}, ITEMS)
    if not len(p.y):
        return Intervals({}, "")
    known = m.prepared.group[p.index] if m.prepared is not None and m.prepared.group is not None else None
    groups = len(np.unique(known)) if known is not None else 0
    group = known if known is not None and groups >= FEW_GROUPS else None
    note = f"The intervals come from drawing anew among the {groups:,} groups of alike items in the test."
    ranges = _value_ranges(p, s.names, group) if s.kind == "values" else _class_ranges(p, group)
    return Intervals(ranges, note if group is not None else ITEMS, _gains(s, p, group))


def _class_ranges(p: Predictions, group: Array | None) -> dict[str, tuple[float, float]]:
    said = p.said.argmax(1)
    by_item = wilson(float((said == p.y).sum()), len(p.y))
    if group is None or len(np.unique(group)) > MANY_GROUPS:
        return {"accuracy": by_item}
    ranges = by_group(p.y, said, group, p.said.shape[1])
    # Drawing anew from answers that are (nearly) all right promises perfection: never narrower than by item.
    low, high = ranges["accuracy"]
    ranges["accuracy"] = min(low, by_item[0]), max(high, by_item[1])
    return {name: r for name, r in ranges.items() if name == "accuracy" or r[0] < 1.0}


def _value_ranges(p: Predictions, names: list[str], group: Array | None) -> dict[str, tuple[float, float]]:
    low, high = mean_range(np.abs(p.said.astype(np.float64) - p.y), group)
    return {f"{name}_mae": (float(low[t]), float(high[t])) for t, name in enumerate(names)}


def _gains(s: Scores, p: Predictions, group: Array | None) -> dict[str, Gain]:
    """In accuracy, or in each target's mean absolute error; over 0 is better."""
    if p.baseline is None or not s.baselines:
        return {}
    if s.kind == "values":
        off, simple = (np.abs(a.astype(np.float64) - p.y) for a in (p.said, p.baseline))
        won, keys = simple - off, [f"{name}_mae" for name in s.names]
        whose = min(s.baselines, key=lambda b: _distance(b, keys, simple.mean(0)))
    else:
        right, simple = (np.equal(a, p.y).astype(np.float64)[:, None] for a in (p.said.argmax(1), p.baseline))
        won = right - simple
        keys = ["accuracy"]
        whose = min(s.baselines, key=lambda b: _distance(b, keys, simple.mean(0)))
    low, high = mean_range(won, group)
    mean = won.mean(0)
    return {k: Gain(whose.name, float(mean[t]), float(low[t]), float(high[t])) for t, k in enumerate(keys)}


def _distance(b: Baseline, keys: list[str], figures: Array) -> float:
    """How far a baseline's figures are from those of the answers that were kept: which of them gave these."""
    return float(sum(abs(b.metrics.get(k, math.inf) - v) for k, v in zip(keys, figures, strict=True)))


def mean_range(values: Array, group: Array | None) -> tuple[Array, Array]:
    """95 % bootstrap interval of each column's mean, drawing whole groups (single rows where there are none).

    `values` (N, T). With very many groups their spread says the same as drawing from them, and much faster.
    """
    codes = np.arange(len(values)) if group is None else np.unique(group, return_inverse=True)[1]
    n = np.bincount(codes).astype(np.float64)
    sums = np.stack([np.bincount(codes, column) for column in values.T], 1)
    if len(n) > MANY_GROUPS:
        mean = sums.sum(0) / n.sum()
        half = Z * np.sqrt(((sums - n[:, None] * mean) ** 2).sum(0)) / n.sum()
        return mean - half, mean + half
    draws = np.random.default_rng(0).multinomial(len(n), np.full(len(n), 1 / len(n)), size=BOOTSTRAP_DRAWS)
    means = (draws @ sums) / (draws @ n)[:, None]
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    return low, high


def by_group(true: Array, said: Array, group: Array, classes: int) -> dict[str, tuple[float, float]]:
    """95 % bootstrap intervals of accuracy, balanced accuracy and macro F1, drawing whole groups, with a fixed seed.

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
    recall = np.where(trues > 0, hits / np.maximum(trues, 1), np.nan)[:, np.unique(true)]
    return {
        "accuracy": _middle(accuracy),
        "balanced_accuracy": _middle(np.nanmean(recall, 1)),
        "macro_f1": _middle(f1),
    }


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


def coverage(prob: Array, y: Array) -> list[dict[str, Any]]:
    """If only answers at least this sure count: the share that is answered, and how often it is right."""
    top, right = prob.max(1), prob.argmax(1) == y
    rows = []
    for t in THRESHOLDS:
        kept = top >= t
        if kept.any():
            rows.append({"threshold": t, "share": float(kept.mean()), "accuracy": float(right[kept].mean())})
    return rows


def per_target(pred: Array, y: Array, names: list[str]) -> dict[str, dict[str, float]]:
    """Mean absolute error, root mean square error, bias (in the target's unit), R², and the mean of each target."""
    off = (pred - y).astype(np.float64)
    var = np.maximum(((y - y.mean(0)) ** 2).mean(0), 1e-24)
    return {
        name: {
            "mae": float(np.abs(off[:, t]).mean()),
            "rmse": float(np.sqrt((off[:, t] ** 2).mean())),
            "bias": float(off[:, t].mean()),
            "r2": float(1 - (off[:, t] ** 2).mean() / var[t]),
            "mean": float(y[:, t].mean()),
        }
        for t, name in enumerate(names)
    }
