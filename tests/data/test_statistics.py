"""`proj.data.statistics` against numpy's own mean and standard deviation."""

from __future__ import annotations

import numpy as np
import pytest

from proj.data import statistics


@pytest.mark.parametrize("channels", [1, 3])
def test_mean_and_deviation_are_numpys(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "CHUNK", 7)
    x = np.random.default_rng(0).integers(0, 200, (40, 5, 6, channels), dtype=np.uint8)
    rows = np.array([0, 3, 4, 9, 11, 12, 13, 20, 21, 39])
    mean, std = statistics.channels(x, rows)
    part = x[rows].astype(np.float64) / 255
    assert mean == pytest.approx(part.mean((0, 1, 2)).tolist(), abs=1e-12)
    assert std == pytest.approx(part.std((0, 1, 2)).tolist(), abs=1e-9)


def test_only_the_rows_named_count() -> None:
    x = np.zeros((4, 2, 2, 1), np.uint8)
    x[3] = 255
    assert statistics.channels(x, np.array([0, 1, 2]))[0] == [0.0]


def test_the_order_of_rows_does_not_change_a_bit() -> None:
    x = np.random.default_rng(0).integers(0, 256, (600, 4, 4, 3), dtype=np.uint8)
    rows = np.arange(600)
    assert statistics.channels(x, rows) == statistics.channels(x, rows[::-1])


def test_one_colour_has_no_deviation_of_nought() -> None:
    _, std = statistics.channels(np.full((3, 2, 2, 1), 9, np.uint8), np.arange(3))
    assert std[0] > 0
