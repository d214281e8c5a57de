"""Statistics of the training split, in one pass over the memory map."""

from __future__ import annotations

from typing import Any

import numpy as np

CHUNK = 256  # rows at a time: bounds the memory, whatever the data set's size


def channels(x: Any, rows: np.ndarray[Any, Any]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel (the last axis) over `rows`; of texts none.

    uint8 is scaled to 0..1, float32 stays in its units.
    """
    if not isinstance(x, np.ndarray):
        return [], []
    return _levels(x, rows) if x.dtype == np.uint8 else _numbers(x, rows)


def targets(y: np.ndarray[Any, Any], rows: np.ndarray[Any, Any]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each value in float32 (N, T) over `rows`; of class indices (N,) none."""
    return _numbers(y, rows) if y.ndim == 2 else ([], [])


def _numbers(x: np.ndarray[Any, Any], rows: np.ndarray[Any, Any]) -> tuple[list[float], list[float]]:
    part = np.asarray(x[rows], np.float64).reshape(-1, x.shape[-1])
    return part.mean(0).tolist(), np.maximum(part.std(0), 1e-6).tolist()


def _levels(x: np.ndarray[Any, Any], rows: np.ndarray[Any, Any]) -> tuple[list[float], list[float]]:
    """Of uint8 (N, ..., C).

    From integer histograms, so that the result does not depend on the order of summation.
    """
    c = x.shape[-1]
    counts = np.zeros((c, 256), np.int64)
    for start in range(0, len(rows), CHUNK):
        part = np.asarray(x[rows[start : start + CHUNK]])
        for i in range(c):
            counts[i] += np.bincount(part[..., i].ravel(), minlength=256)
    level = np.arange(256) / 255.0
    n = counts.sum(1)
    mean = (counts @ level) / n
    var = (counts @ level**2) / n - mean**2
    return mean.tolist(), np.sqrt(var.clip(1e-8)).tolist()
