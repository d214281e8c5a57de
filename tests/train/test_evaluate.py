"""`proj.train.evaluate`: the scores are scikit-learn's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_projects import Finished, net, prepared, view

from proj.train import evaluate, fit

NAMES = ["a", "b", "c", "d"]


def made(seed: int, n: int, absent: int) -> tuple[np.ndarray, np.ndarray]:
    """Random probabilities and targets; the last `absent` classes are in neither."""
    rng = np.random.default_rng(seed)
    prob = rng.random((n, 4)).astype(np.float32)
    prob[:, 4 - absent :] = 0
    prob /= prob.sum(1, keepdims=True)
    return prob, rng.integers(0, 4 - absent, n)


@given(seed=st.integers(0, 10_000), n=st.integers(1, 60), absent=st.integers(0, 2))
@settings(deadline=None, max_examples=60)
def test_scores_are_scikit_learns(seed: int, n: int, absent: int) -> None:
    prob, y = made(seed, n, absent)
    got, said = evaluate.scores(prob, y, NAMES), prob.argmax(1)
    assert got["metrics"]["accuracy"] == pytest.approx(sk.accuracy_score(y, said), abs=1e-6)
    assert got["metrics"]["macro_f1"] == pytest.approx(
        sk.f1_score(y, said, average="macro", zero_division=0), abs=1e-6
    )  # of the classes that are there
    assert got["metrics"]["log_loss"] == pytest.approx(-np.log(prob[np.arange(n), y].clip(1e-12)).mean(), rel=1e-4)
    assert got["confusion"] == sk.confusion_matrix(y, said, labels=range(4)).tolist()
    p, r, f, s = sk.precision_recall_fscore_support(y, said, labels=range(4), zero_division=0)
    for i, name in enumerate(NAMES):
        own = got["per_class"][name]
        assert own["support"] == s[i]
        assert [own["precision"], own["recall"], own["f1"]] == pytest.approx([p[i], r[i], f[i]], abs=1e-6)


def test_numbers_are_plain_and_json_takes_them() -> None:
    assert "NaN" not in json.dumps(evaluate.scores(*made(0, 5, 2), NAMES), allow_nan=False)


def test_one_column_of_targets_is_not_broadcast() -> None:
    # (B,) against (B, 1) would quietly compare every row with every other.
    prob, y = made(0, 20, 0)
    with pytest.raises((ValueError, RuntimeError, IndexError)):
        evaluate.scores(prob, y[:, None], NAMES)
    with pytest.raises((ValueError, RuntimeError, IndexError)):
        evaluate.scores(prob, y[:7], NAMES)


def test_a_sure_wrong_answer_has_a_finite_loss() -> None:
    prob = np.array([[1.0, 0.0, 0.0, 0.0]], np.float32)
    assert evaluate.scores(prob, np.array([1]), NAMES)["metrics"]["log_loss"] == pytest.approx(27.63, abs=0.01)


def test_the_baseline_is_the_training_splits_most_frequent_class() -> None:
    b = evaluate.baseline(np.array([1, 1, 2]), np.array([1, 2, 2, 2]), 4)
    assert b["metrics"] == {"accuracy": 0.25}


def test_probabilities_are_the_networks_in_the_order_of_the_rows(finished: Finished) -> None:
    p = prepared(finished.job)
    n = net(finished.job, view(finished.job))
    fit.load_checkpoint(n, finished.run / "checkpoints/best.ckpt")
    n.train()  # must not matter
    rows = np.array([900, 3, 77] * 40)
    got = evaluate.probabilities(n, p, rows)
    assert got.shape == (120, 10)
    assert got.dtype == np.float32
    assert np.allclose(got.sum(1), 1, atol=1e-5)
    with torch.no_grad():
        want = n.eval()(torch.from_numpy(np.array(p.x[[900, 3, 77]]))).softmax(1).numpy()
    assert np.allclose(got[:3], want, atol=1e-6)
    assert evaluate.probabilities(n, p, rows[:0]).shape == (0, 10)


def test_what_is_written_can_be_read_and_is_whole(finished: Finished, tmp_path: Path) -> None:
    p = prepared(finished.job)
    rows = p.rows("test")
    prob = np.full((len(rows), 10), 0.1, np.float32)
    content = evaluate.write(tmp_path, p, rows, prob, evaluate.scores(prob, p.y[rows], p.meta.names))
    assert json.loads((tmp_path / "metrics.json").read_text()) == content
    assert (content["task"], content["run"], content["split"]) == ("digits", tmp_path.name, "test")
    with np.load(tmp_path / "predictions.npz", allow_pickle=False) as z:
        assert z["index"].tolist() == rows.tolist()
        assert z["id"].tolist() == p.id[rows].tolist()
        assert np.array_equal(z["y"], p.y[rows])
        assert np.array_equal(z["prob"], prob)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["metrics.json", "predictions.npz"]
