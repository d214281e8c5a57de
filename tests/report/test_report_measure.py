"""The figures that a report adds, against values worked out by hand or by simulation."""

from __future__ import annotations

import json

import numpy as np
import pytest
from made_run import Made

from proj import answers
from proj.report import findings, measure
from proj.report.read import material
from proj.report.words import share


def test_wilson_known_values() -> None:
    # Newcombe (1998), table I: 81 of 263, and 0 of 20.
    assert measure.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert measure.wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert measure.wilson(0, 0) == (0.0, 1.0)


def test_intervals_by_group_are_wider_where_groups_are_alike() -> None:
    rng = np.random.default_rng(3)
    group = np.repeat(np.arange(40), 10)
    true = rng.integers(0, 2, 400)
    wrong = rng.random(40)[group] < 0.2  # whole groups right or wrong
    said = np.where(wrong, 1 - true, true)
    by_group = measure.by_group(true, said, group, 2)["accuracy"]
    by_item = measure.by_group(true, said, np.arange(400), 2)["accuracy"]
    exact = measure.wilson(float((true == said).sum()), 400)
    assert by_item == pytest.approx(exact, abs=0.01)
    assert by_group[1] - by_group[0] > 2 * (by_item[1] - by_item[0])


def test_a_perfect_score_is_no_certainty(made: Made) -> None:
    saved = dict(np.load(made.run / "predictions.npz"))
    saved["prob"] = np.eye(3, dtype=np.float32)[saved["y"]]
    np.savez(made.run / "predictions.npz", **saved)
    made.change("metrics.json", confusion=(np.eye(3, dtype=int) * 10).tolist())
    got = measure.intervals(material(made.run, made.prepared))
    assert got.ranges == {"accuracy": (pytest.approx(0.8865, abs=5e-4), 1.0)}


def test_macro_f1_interval_holds_the_figure_and_leaves_out_absent_classes() -> None:
    true = np.array([0, 0, 0, 1, 1, 1] * 20)
    said = np.array([0, 0, 1, 1, 1, 1] * 20)
    f1 = ((2 * 40 / 100) + (2 * 60 / 140)) / 2
    low, high = measure.by_group(true, said, np.arange(120), 5)["macro_f1"]
    assert low < f1 < high
    assert high - low < 0.2


def test_most_confused_by_count_then_share() -> None:
    confusion = np.array([[90, 5, 0], [5, 5, 0], [1, 0, 9]])
    pairs = measure.most_confused(confusion, ["a", "b", "c"], 2)
    assert [(p.true, p.said, p.count, p.of) for p in pairs] == [("b", "a", 5, 10), ("a", "b", 5, 95)]


def test_calibration() -> None:
    prob = np.array([[0.9, 0.1], [0.9, 0.1], [0.65, 0.35], [0.0, 1.0]])
    c = answers.calibration(prob, np.array([0, 1, 0, 1]))
    assert (c.n, c.accuracy) == (4, 0.75)
    assert c.confidence == pytest.approx(0.8625)
    # 0.9 and 1.0 share the last bin: mean confidence 2.8 / 3 against 2 / 3 right; 0.65 alone, right.
    assert c.error == pytest.approx((abs(2 - 2.8) + abs(1 - 0.65)) / 4)
    assert [b.n for b in c.bins if b.n] == [1, 3]


def test_coverage() -> None:
    prob = np.array([[0.96, 0.04], [0.85, 0.15], [0.4, 0.6], [0.55, 0.45]])
    rows = {r["threshold"]: (r["share"], r["accuracy"]) for r in measure.coverage(prob, np.array([0, 1, 1, 0]))}
    assert rows == {0.5: (1, 0.75), 0.7: (0.5, 0.5), 0.8: (0.5, 0.5), 0.9: (0.25, 1), 0.95: (0.25, 1)}


def test_worst_values_weigh_each_target_by_its_spread() -> None:
    y = np.array([[0, 0], [1000, 1], [2000, 2]], dtype=float)
    pred = y + np.array([[100, 0], [0, 1.5], [0, 0]])
    assert answers.worst_values(pred, y, 2).tolist() == [1, 0]


def test_per_target() -> None:
    y = np.array([[1.0], [2.0], [3.0]])
    got = measure.per_target(y + np.array([[1.0], [1.0], [-2.0]]), y, ["mass"])["mass"]
    assert got == pytest.approx({"mae": 4 / 3, "rmse": 2**0.5, "bias": 0.0, "r2": 1 - 6 / 2, "mean": 2.0})


@pytest.mark.parametrize(
    ("value", "shown"), [(0.9, "0.900"), (1.0, "1.000"), (0.99971, "0.99971"), (float("nan"), "–")]
)
def test_a_share_is_never_rounded_to_perfect(value: float, shown: str) -> None:
    assert share(value) == shown


def sentences(made: Made) -> dict[str, bool]:
    m = material(made.run, made.prepared)
    return {f.text: f.serious for f in findings.found(m, measure.intervals(m))}


def test_findings(made: Made) -> None:
    said = sentences(made)
    assert any(t.startswith("Only 30 test items") and serious for t, serious in said.items())
    assert said['Weakest class: “dog & "co"”, 8 of 10 recognised.'] is False
    assert said["From epoch 1 on the validation loss rose, 0.4 to 0.7: it began to overfit."] is False
    assert said["1 file could not be read: not in the data."] is True
    assert any("no commit has" in t for t in said)
    assert [*said.values()] == sorted(said.values(), reverse=True)


def test_finding_that_a_model_is_no_better_than_one_answer(made: Made) -> None:
    saved = dict(np.load(made.run / "predictions.npz"))
    saved["prob"] = np.tile(np.float32([0.9, 0.05, 0.05]), (30, 1))
    np.savez(made.run / "predictions.npz", **saved)
    made.change("metrics.json", confusion=[[10, 0, 0], [10, 0, 0], [10, 0, 0]])
    said = sentences(made)
    assert said["Not better than always answering “cat”: that is right in 0.333."]
    assert said["Weakest class: “<b>x”, 0 of 10 recognised."]


def test_finding_overconfidence_absent_classes_and_a_broken_promise(made: Made) -> None:
    n = 200
    rng = np.random.default_rng(0)
    y = np.load(made.prepared / "y.npy")
    index = rng.choice(np.flatnonzero(y < 2), n)
    prob = np.full((n, 3), 0.01, np.float32)
    said = np.where(rng.random(n) < 0.6, y[index], 1 - y[index])
    prob[np.arange(n), said] = 0.98
    ids = index.astype(str)
    np.savez(made.run / "predictions.npz", index=index, y=y[index], prob=prob, id=ids)
    confusion = np.zeros((3, 3), int)
    np.add.at(confusion, (y[index], said), 1)
    made.change("metrics.json", confusion=confusion.tolist(), split="val")
    found = sentences(made)
    for start in (
        "Overconfident: 0.980 sure",
        "No test items of “dog",
        "Validation promised more: 0.800",
        "These figures are of",
    ):
        assert any(t.startswith(start) and serious for t, serious in found.items()), start


def test_finding_unbalanced_classes(made: Made) -> None:
    y = np.load(made.prepared / "y.npy")
    y[:44] = 0
    np.save(made.prepared / "y.npy", y)
    assert "Unbalanced classes: “cat” has 44 training items, “<b>x” only 0." in sentences(made)


def test_skipped_files_in_each_form(made: Made) -> None:
    meta = made.prepared / "meta.json"
    for skipped in (
        [["a.jpg", "cut off"]],
        {"a.jpg": "cut off"},
        [{"id": "a.jpg", "why": "cut off"}],
        ["a.jpg: cut off"],
    ):
        meta.write_text(json.dumps({"names": ["a"], "skipped": skipped}))
        (made.run / "predictions.npz").unlink(missing_ok=True)
        assert findings.skipped_files(material(made.run, made.prepared)) == ["a.jpg: cut off"]


def test_mean_range_is_the_same_by_drawing_and_by_formula() -> None:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(4_000), 2)
    values = rng.normal(5, 2, (8_000, 2)) + np.repeat(rng.normal(0, 3, 4_000), 2)[:, None]
    drawn = measure.mean_range(values, group)
    measure_many = measure.mean_range(np.tile(values, (2, 1)), np.concatenate([group, group + 4_000]))
    for a, b in zip(drawn, measure_many, strict=True):
        assert a == pytest.approx(b, abs=0.08)
    width, twice = drawn[1] - drawn[0], measure_many[1] - measure_many[0]
    assert twice * 2**0.5 == pytest.approx(width, rel=0.08)
    alone = measure.mean_range(values, None)
    assert (width > 1.1 * (alone[1] - alone[0])).all()


def test_gain_over_a_baseline_is_paired(made: Made) -> None:
    """Both are wrong on the same hard items: the difference is far surer than either figure."""
    saved = dict(np.load(made.run / "predictions.npz"))
    said = saved["prob"].argmax(1)
    simple = said.copy()
    simple[20:24] = (simple[20:24] + 1) % 3
    np.savez(made.run / "predictions.npz", **saved, baseline=simple)
    right = float((simple == saved["y"]).mean())
    baselines = [
        {"name": "most frequent class", "metrics": {"accuracy": 1 / 3}},
        {"name": "probe", "metrics": {"accuracy": right}},
    ]
    made.change("metrics.json", baselines=baselines)
    gain = measure.intervals(material(made.run, made.prepared)).gains["accuracy"]
    assert gain.over == "probe"
    assert gain.value == pytest.approx(0.9 - right)
    assert 0 <= gain.low < gain.value < gain.high < 0.35


def test_finding_that_a_baseline_is_not_beaten(made: Made) -> None:
    made.change("metrics.json", baselines=[{"name": "probe", "metrics": {"accuracy": 0.86}}])
    assert sentences(made)["Not clearly better than probe: accuracy 0.900, its 0.860."] is True
    made.change("metrics.json", baselines=[{"name": "probe", "metrics": {"accuracy": 0.5}}])
    assert not any(text.startswith("Not clearly") for text in sentences(made))


def test_interval_of_balanced_accuracy_holds_the_figure() -> None:
    true = np.array([0] * 100 + [1] * 20)
    said = np.array([0] * 95 + [1] * 5 + [1] * 12 + [0] * 8)
    low, high = measure.by_group(true, said, np.arange(120), 3)["balanced_accuracy"]
    assert low < (0.95 + 0.6) / 2 < high
    assert high - low < 0.3
