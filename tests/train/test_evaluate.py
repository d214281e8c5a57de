"""`proj.train.evaluate`: the scores are scikit-learn's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_projects import Finished, net, prepared

from proj.train import evaluate, fit, inputs, scores

NAMES = ["a", "b", "c", "d"]


def scored(prob: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    return scores._classes(torch.from_numpy(prob), torch.from_numpy(y), NAMES)


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
    got, said = scored(prob, y), prob.argmax(1)
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
    assert "NaN" not in json.dumps(scored(*made(0, 5, 2)), allow_nan=False)


def test_one_column_of_targets_is_not_broadcast() -> None:
    # (B,) against (B, 1) would quietly compare every row with every other.
    prob, y = made(0, 20, 0)
    with pytest.raises((ValueError, RuntimeError, IndexError)):
        scored(prob, y[:, None])
    with pytest.raises((ValueError, RuntimeError, IndexError)):
        scored(prob, y[:7])


def test_a_sure_wrong_answer_has_a_finite_loss() -> None:
    prob = np.array([[1.0, 0.0, 0.0, 0.0]], np.float32)
    assert scored(prob, np.array([1]))["metrics"]["log_loss"] == pytest.approx(27.63, abs=0.01)


def test_probabilities_are_the_networks_in_the_order_of_the_rows(finished: Finished) -> None:
    v = inputs.view(prepared(finished.job), finished.job.cfg.model)
    p, n = v.prepared, net(finished.job, v)
    fit.load_checkpoint(n, finished.run / "checkpoints/best.ckpt")
    n.train()  # must not matter
    rows = np.array([900, 3, 77] * 40)
    got = evaluate.answers(n, v, rows)
    assert got.shape == (120, 10)
    assert got.dtype == np.float32
    assert np.allclose(got.sum(1), 1, atol=1e-5)
    with torch.no_grad():
        want = n.eval()(torch.from_numpy(np.array(p.x[[900, 3, 77]]))).softmax(1).numpy()
    assert np.allclose(got[:3], want, atol=1e-6)
    assert evaluate.answers(n, v, rows[:0]).shape == (0, 10)


def test_what_is_written_can_be_read_and_is_whole(finished: Finished, tmp_path: Path) -> None:
    v = inputs.view(prepared(finished.job), finished.job.cfg.model)
    p, rows = v.prepared, v.test
    prob = np.full((len(rows), 10), 0.1, np.float32)
    content = evaluate.write(tmp_path, v, rows, prob, scores.content(prob, p.y[rows], p.meta))
    assert json.loads((tmp_path / "metrics.json").read_text()) == content
    assert (content["task"], content["run"], content["split"]) == ("digits", tmp_path.name, "test")
    with np.load(tmp_path / "predictions.npz", allow_pickle=False) as z:
        assert z["index"].tolist() == rows.tolist()
        assert z["id"].tolist() == p.id[rows].tolist()
        assert np.array_equal(z["y"], p.y[rows])
        assert np.array_equal(z["prob"], prob)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["metrics.json", "predictions.npz"]
