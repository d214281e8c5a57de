"""`proj.train.calibrate`: the temperature that was put in is found again, and never makes an answer worse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proj.train import calibrate


def drawn(n: int, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are exactly as sure as they are right: y is drawn from their softmax."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 2, (n, k))
    return z, np.array([rng.choice(k, p=p) for p in softmax(z)])


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def loss(z: np.ndarray, y: np.ndarray, t: float) -> float:
    return float(-np.log(softmax(z / t)[np.arange(len(y)), y].clip(1e-300)).mean())


@pytest.mark.parametrize("true", [0.3, 1.0, 2.5, 8.0])
def test_finds_what_was_put_in(true: float) -> None:
    z, y = drawn(4000, 5, 0)
    assert calibrate.temperature(true * z, y) == pytest.approx(true, rel=0.06)


def test_makes_overconfident_answers_honest() -> None:
    z, y = drawn(4000, 4, 1)
    t = calibrate.temperature(5 * z, y)
    assert calibrate.ece(softmax(5 * z), y) > 0.15
    assert calibrate.ece(softmax(5 * z / t), y) < 0.03


@given(
    n=st.integers(0, 200), k=st.integers(1, 6), scale=st.floats(1e-3, 1e3), seed=st.integers(0, 10_000),
    right=st.booleans(),
)  # fmt: skip
@settings(deadline=None, max_examples=80)
def test_is_never_worse_than_none_and_within_bounds(n: int, k: int, scale: float, seed: int, right: bool) -> None:
    rng = np.random.default_rng(seed)
    z = (scale * rng.normal(size=(n, k))).astype(np.float32)
    y = z.argmax(1) if right and n else rng.integers(0, k, n)
    t = calibrate.temperature(z, y)
    assert 0.05 <= t <= 20
    if n:
        assert loss(z.astype(float), y, t) <= loss(z.astype(float), y, 1.0) + 1e-9
    order = rng.permutation(n)
    shifted = z[order].astype(float) + rng.normal(size=(n, 1))
    assert calibrate.temperature(shifted, y[order]) == pytest.approx(t, rel=1e-3)


def test_few_rows_fit_nothing() -> None:
    z, y = drawn(19, 3, 0)
    assert calibrate.temperature(9 * z, y) == 1.0
    assert calibrate.temperature(np.zeros((0, 3)), np.zeros(0, int)) == 1.0


@pytest.mark.parametrize("n", [30, 300])
def test_rows_that_are_all_right_do_not_run_to_certainty(n: int) -> None:
    """The likelihood alone would take the lowest temperature there is."""
    y = np.arange(n) % 3
    z = 8.0 * np.eye(3)[y]
    assert 0.6 < calibrate.temperature(z, y) <= 1.0


def test_rows_that_are_not_finite_are_left_out() -> None:
    z, y = drawn(500, 3, 2)
    whole = calibrate.temperature(3 * z, y)
    spoiled = np.concatenate([3 * z, [[np.nan, 0, 0], [np.inf, 0, 0]]])
    assert calibrate.temperature(spoiled, np.concatenate([y, [0, 1]])) == whole
    assert calibrate.temperature(np.full((50, 3), np.nan), np.zeros(50, int)) == 1.0


def test_calibration_error_of_no_rows() -> None:
    assert calibrate.ece(np.zeros((0, 3)), np.zeros(0, int)) == 0.0
