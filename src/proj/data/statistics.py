"""Channel statistics of the training split, in one pass over the memory map."""

from __future__ import annotations

from typing import Any

import numpy as np

CHUNK = 256  # rows at a time: bounds the memory, whatever the data set's size


def channels(x: np.ndarray[Any, Any], rows: np.ndarray[Any, Any]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of uint8 (N, H, W, C) over `rows`, scaled to 0..1.

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
