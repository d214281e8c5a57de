"""`proj.train.baseline`: simple methods find what simple methods can, on every kind of input."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from proj.data.store import Meta, Prepared, Texts
from proj.train import baseline


def prepared(x: Any, y: np.ndarray, names: list[str], modality: str, kind: str = "classes") -> Prepared:
    n = len(y)
    meta = Meta(
        task="made", title="", question="", key="", source="", sample=False, names=names, units=[""] * len(names),
        modality=modality, kind=kind, preprocess={}, data_hash="", manifest_hash="", mean=[], std=[],
    )  # fmt: skip
    return Prepared(Path(), meta, x, y, np.zeros(n, np.uint8), np.arange(n).astype(str), np.arange(n).astype(str))


def texts(each: list[str]) -> Texts:
    raw = [t.encode() for t in each]
    offset = np.cumsum([0, *map(len, raw)]).astype(np.int64)
    return Texts(np.frombuffer(b"".join(raw), np.uint8), offset)


def split(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(n * 3 // 4), np.arange(n * 3 // 4, n)


def accuracies(found: list[dict[str, Any]]) -> dict[str, float]:
    return {b["name"]: b["metrics"]["accuracy"] for b in found}


def test_digits_in_two_seconds() -> None:
    x, y = load_digits(return_X_y=True)
    data = prepared(
        (x * 15).astype(np.uint8).reshape(-1, 8, 8, 1), y.astype(np.int64), [str(k) for k in range(10)], "image"
    )
    baseline.baselines(data, np.arange(40), np.arange(40, 50))  # whatever is imported first
    start = time.process_time()
    found, strongest = baseline.baselines(data, *split(len(y)))
    assert time.process_time() - start < 2
    got = accuracies(found)
    assert got["most frequent class"] < 0.15
    assert 0.88 < got["logistic regression on small pixels"] < 0.97
    assert strongest is not None
    assert (strongest == y[split(len(y))[1]]).mean() == got["logistic regression on small pixels"]


def test_the_same_twice() -> None:
    rng = np.random.default_rng(0)
    data = prepared(
        rng.integers(0, 255, (90, 40, 50, 3), dtype=np.uint8), rng.integers(0, 3, 90), ["a", "b", "c"], "image"
    )
    assert baseline.baselines(data, *split(90))[0] == baseline.baselines(data, *split(90))[0]


def test_texts_are_told_apart_by_their_words() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 200)
    words = np.array(["the", "a", "of", "and", "to", "is"])
    each = [" ".join([*rng.choice(words, 12), ("cheap" if k else "fine") + " pills"]) for k in y]
    found, strongest = baseline.baselines(prepared(texts(each), y, ["ham", "spam"], "text"), *split(200))
    assert accuracies(found)["logistic regression on TF-IDF"] == 1.0
    assert strongest is not None
    assert strongest.dtype == np.int64


def test_series_by_their_raw_window() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 200)
    x = rng.normal(size=(200, 10, 3)).astype(np.float32) * [1, 100, 0]  # one channel never moves
    x[:, 7, 0] += 5 * y
    found, _ = baseline.baselines(prepared(x.astype(np.float32), y, ["no", "yes"], "series"), *split(200))
    assert accuracies(found)["logistic regression on the raw window"] > 0.9


@pytest.mark.parametrize("views", [False, True])
def test_values_by_small_pixels_of_the_first_view(views: bool) -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(30, 200, 160)
    x = np.broadcast_to(grey[:, None, None, None], (160, 20, 24, 3)).astype(np.uint8)
    if views:
        x = np.stack([x, rng.integers(0, 255, x.shape, dtype=np.uint8)], 1)
    y = np.stack([grey * 3.0, rng.normal(50, 9, 160)], 1).astype(np.float32)
    data = prepared(x, y, ["mass", "noise"], "image", "values")
    found, strongest = baseline.baselines(data, *split(160))
    mean, ridge = (b["metrics"] for b in found)
    assert [b["name"] for b in found] == ["mean value", "ridge regression on small pixels"]
    assert ridge["mass_mae"] < 0.1 * mean["mass_mae"]
    assert abs(mean["mass_r2"]) < 0.3
    assert strongest is not None
    truth = y[split(160)[1]]
    assert strongest.shape == truth.shape
    assert ridge["mass_mae"] == pytest.approx(sk.mean_absolute_error(truth[:, 0], strongest[:, 0]), rel=1e-6)
    assert ridge["mass_rmse"] == pytest.approx(sk.root_mean_squared_error(truth[:, 0], strongest[:, 0]), rel=1e-6)
    assert ridge["mass_r2"] == pytest.approx(sk.r2_score(truth[:, 0], strongest[:, 0]), rel=1e-6)


def test_values_of_texts_and_of_series() -> None:
    rng = np.random.default_rng(0)
    n = rng.integers(0, 9, 120)
    y = (n[:, None] * 2.0).astype(np.float32)
    long = prepared(texts(["word " * int(k) + "end" for k in n]), y, ["words"], "text", "values")
    moves = prepared((n[:, None, None] + np.zeros((120, 5, 2))).astype(np.float32), y, ["level"], "series", "values")
    for data, name in ((long, "words"), (moves, "level")):
        mean, ridge = (b["metrics"][f"{name}_mae"] for b in baseline.baselines(data, *split(120))[0])
        assert ridge < mean / 2


@given(n=st.integers(1, 40), k=st.integers(1, 4), seed=st.integers(0, 999))
@settings(deadline=None, max_examples=60)
def test_metrics_are_scikit_learns(n: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    y, said = rng.integers(0, k, n), rng.integers(0, k, n)
    got = baseline.class_metrics(said, y)
    assert got["accuracy"] == sk.accuracy_score(y, said)
    assert got["macro_f1"] == pytest.approx(sk.f1_score(y, said, average="macro", zero_division=0))
    assert got["balanced_accuracy"] == pytest.approx(
        sk.recall_score(y, said, labels=np.unique(y), average="macro", zero_division=0)
    )


def test_odd_data() -> None:
    empty = prepared(texts(["", " ", "...", ""] * 5), np.arange(20) % 2, ["a", "b"], "text")
    assert len(baseline.baselines(empty, *split(20))[0]) == 2
    one = prepared(np.zeros((9, 4, 4, 1), np.uint8), np.zeros(9, np.int64), ["a", "b"], "image")
    assert [b["name"] for b in baseline.baselines(one, *split(9))[0]] == ["most frequent class"]
    assert baseline.baselines(one, np.arange(0), np.arange(9)) == ([], None)


def test_large_data_are_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(baseline.MOST_ROWS, "image", 50)
    seen: list[int] = []
    whole = baseline.small_pixels
    monkeypatch.setattr(baseline, "small_pixels", lambda x, rows: seen.append(len(rows)) or whole(x, rows))
    data = prepared(np.zeros((400, 4, 4, 1), np.uint8), np.arange(400) % 2, ["a", "b"], "image")
    baseline.baselines(data, *split(400))
    assert seen == [50, 100]
