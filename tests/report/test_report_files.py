"""Files that cannot be used stop the report with a clear message, and leave the old page alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_run import Made

from proj.errors import CheckFailed, ResourceError, RunNotFound
from proj.report.run import write


def text(name: str, content: str) -> Callable[[Made], None]:
    return lambda made: (made.run / name).write_text(content) and None


def array(name: str, **changes: object) -> Callable[[Made], None]:
    def spoil(made: Made) -> None:
        saved = {**np.load(made.run / name), **changes}
        np.savez(made.run / name, **{k: v for k, v in saved.items() if v is not None})

    return spoil


def cut(made: Made) -> None:
    path = made.run / "predictions.npz"
    path.write_bytes(path.read_bytes()[:200])


def pickled(made: Made) -> None:
    saved = dict(np.load(made.run / "predictions.npz"))
    np.savez(made.run / "predictions.npz", **{**saved, "id": np.array([{}] * 30, dtype=object)})


def split_short(made: Made) -> None:
    np.save(made.prepared / "split.npy", np.zeros(3, np.uint8))


def x_is_text(made: Made) -> None:
    (made.prepared / "x.npy").write_text("not an array")


ELSEWHERE = "not made on these prepared data"
TWO_FOR_ONE = '{"names": ["a"], "confusion": [[1, 2], [3, 4]]}'
RAGGED = '{"names": ["a", "b"], "confusion": [[1], [3, 4]]}'
BROKEN = {
    "no JSON": (text("metrics.json", "{"), "metrics.json is broken"),
    "a list": (text("metrics.json", "[]"), "where an object was expected"),
    "another kind": (text("metrics.json", '{"kind": "boxes"}'), "'boxes'"),
    "confusion of another size": (text("metrics.json", TWO_FOR_ONE), "shape (2, 2) for 1 names"),
    "ragged confusion": (text("metrics.json", RAGGED), "metrics.json is broken"),
    "metrics without names": (text("metrics.json", '{"metrics": [0.9]}'), "metrics.json is broken"),
    "no column epoch": (text("metrics.csv", "step,loss\n1,2\n"), "no column epoch"),
    "a word": (text("metrics.csv", "epoch,val_loss\n0,0.5\n1,low\n"), "line 3: val_loss is 'low'"),
    "predictions cut off": (cut, "predictions.npz is broken"),
    "pickled objects": (pickled, "allow_pickle"),
    "no answers": (array("predictions.npz", prob=None), "pred"),
    "different lengths": (array("predictions.npz", id=np.array(["a"])), "different lengths"),
    "more classes than names": (array("predictions.npz", prob=np.ones((30, 9))), "9 answers an item"),
    "an unknown class": (array("predictions.npz", y=np.full(30, 7)), "class 7 among 3"),
    "rows that are not there": (array("predictions.npz", index=np.full(30, 99)), ELSEWHERE),
    "labels of other data": (array("predictions.npz", index=np.arange(30) + 1), ELSEWHERE),
    "split.npy too short": (split_short, "different lengths"),
    "x.npy is no array": (x_is_text, "prepared is broken"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files(made: Made, case: str) -> None:
    page = made.run / "report.html"
    page.write_text("the last good one")
    spoil, said = BROKEN[case]
    spoil(made)
    with pytest.raises(CheckFailed) as e:
        write(made.run, made.prepared)
    assert said in str(e.value)
    assert e.value.next
    assert page.read_text() == "the last good one"
    assert not list(made.run.glob("*.tmp"))


def test_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunNotFound):
        write(tmp_path, None)


def test_a_folder_where_the_page_should_be(made: Made) -> None:
    (made.run / "report.html").mkdir()
    with pytest.raises(ResourceError) as e:
        write(made.run, made.prepared)
    assert "report.html cannot be written" in e.value.what
    assert not list(made.run.glob("*.tmp"))


def test_a_last_line_that_was_cut_off_is_no_error(made: Made) -> None:
    with (made.run / "metrics.csv").open("a") as f:
        f.write("4,0.0")
    assert write(made.run, made.prepared).is_file()


def test_numbers_that_are_none(made: Made) -> None:
    """NaN in JSON (as Python writes it), null, and a loss that was not a number."""
    raw = json.loads((made.run / "metrics.json").read_text())
    raw["metrics"] = {"accuracy": None, "macro_f1": float("nan")}
    (made.run / "metrics.json").write_text(json.dumps(raw))
    (made.run / "metrics.csv").write_text("epoch,train_loss,val_loss\n0,nan,0.5\n1,inf,nan\n")
    page = write(made.run, made.prepared).read_text()
    assert "train_loss was not a number in 2 epochs, first in epoch 0." in page
    assert ">nan" not in page
