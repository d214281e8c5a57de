"""What can be said of answers once the truth is known: which are worst, how far their confidence holds.

Training picks by these rules what it explains and the report what it shows, so that both speak of the same rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
WORST = 24  # wrong answers that are explained, and shown


def worst(said: Array, y: Array, kind: str, limit: int = WORST) -> Array:
    """Positions of the worst answers, the worst first: `said` (N, K) probabilities or (N, T) values."""
    return worst_values(said, y, limit) if kind == "values" else worst_classes(said, y, limit)


def worst_classes(prob: Array, y: Array, limit: int) -> Array:
    """Positions of the wrong answers, the surest first."""
    top, said = prob.max(1), prob.argmax(1)
    wrong = np.flatnonzero(said != y)
    return wrong[np.argsort(-top[wrong], kind="stable")][:limit]


def worst_values(pred: Array, y: Array, limit: int) -> Array:
    """Positions of the values furthest off, each target measured in its own standard deviations."""
    if not len(y):
        return np.zeros(0, np.int64)
    return np.argsort(-off_by(pred, y).mean(1), kind="stable")[:limit]


def off_by(pred: Array, y: Array) -> Array:
    """How far each value is off, float64 (N, T), in standard deviations of its target."""
    spread = np.maximum(y.std(0, dtype=np.float64), 1e-12)
    return np.asarray(np.abs(pred.astype(np.float64) - y) / spread)


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


def ece(prob: Array, y: Array, bins: int = 10) -> float:
    """Expected calibration error (Naeini et al. 2015), `bins` of equal width; 0 for no rows."""
    return calibration(prob, y, bins).error if len(y) else 0.0
