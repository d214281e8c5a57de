"""The task `wheel`: recordings and their labels, windows that never cross from one assembly to another."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proj.errors import ConfigError, DataError
from proj.preprocess.series import decode
from proj.task import Row
from proj.tasks.wheel import CHANNELS, TASK, Options

TWO = ["a", "b"]


def options(**changed: Any) -> Options:
    return Options(**{"channels": TWO, "steps": 4, "stride": 2, **changed})


def read(source: Path, **changed: Any) -> list[Row]:
    return list(TASK.read(source, options(**changed)))


def cell(folder: Path, *, mark: str = ",", labels: str = "", lengths: dict[str, int] | None = None) -> Path:
    """Two recordings with two assemblies each: steps are numbered through, so that a window tells where it is from."""
    folder.mkdir(parents=True, exist_ok=True)
    step = 0
    for name in ("day1", "day2"):
        lines = [mark.join(["time", "b", "assembly", "a"])]
        for assembly in ("1", "2"):
            for _ in range((lengths or {}).get(f"{name} {assembly}", 8)):
                lines.append(mark.join([f"t{step}", str(-step), assembly, str(step)]))
                step += 1
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    whole = "file,assembly,label\nday1,1,correct\nday1.csv,2,incorrect\nday2,1,Correct\nday2,2,0\n"
    (folder / "labels.csv").write_text((labels or whole).replace(",", mark))
    return folder


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_windows_of_each_assembly_with_its_label(tmp_path: Path, mark: str) -> None:
    rows = read(cell(tmp_path, mark=mark))
    assert [r.id for r in rows[:4]] == ["day1 1 0", "day1 1 2", "day1 1 4", "day1 2 0"]
    assert Counter((r.group, r.y) for r in rows) == {
        ("day1 1", "correct"): 3, ("day1 2", "incorrect"): 3, ("day2 1", "correct"): 3, ("day2 2", "incorrect"): 3,
    }  # fmt: skip
    for r in rows:
        x = decode(r.x, TASK.spec(options()))  # type: ignore[arg-type]
        assert np.array_equal(x[:, 0], -x[:, 1])  # the channels asked for, in that order
        assert np.array_equal(np.diff(x[:, 0]), [1, 1, 1])
        first = int(x[0, 0])
        assert first // 8 == (first + 3) // 8  # all of one assembly


def test_steps_and_stride_decide_the_windows(tmp_path: Path) -> None:
    cell(tmp_path)
    assert len(read(tmp_path, steps=8)) == 4
    assert len(read(tmp_path, steps=4, stride=1)) == 4 * 5
    assert len(read(tmp_path, steps=3, stride=100)) == 4


def test_mixed_lines_are_told_apart_by_the_identifier(tmp_path: Path) -> None:
    cell(tmp_path)
    path = tmp_path / "day1.csv"
    head, *body = path.read_text().splitlines()
    path.write_text("\n".join([head, *(line for pair in zip(body[:8], body[8:], strict=True) for line in pair)]))
    whole = {r.id: np.asarray(r.x)[:, 0].tolist() for r in read(tmp_path)}
    assert whole["day1 2 0"] == [8, 9, 10, 11]


def test_a_file_may_be_one_assembly(tmp_path: Path) -> None:
    cell(tmp_path, labels="file,label\nday1,1\nday2,0\n")
    rows = read(tmp_path, identifier="")
    assert Counter((r.group, r.y) for r in rows) == {("day1", "correct"): 7, ("day2", "incorrect"): 7}


def test_labels_may_leave_the_file_out(tmp_path: Path) -> None:
    cell(tmp_path, labels="assembly,label\n1,ok\n2,nok\n")
    assert Counter((r.group, r.y) for r in read(tmp_path))["day2 2", "incorrect"] == 3


def test_recordings_and_labels_may_lie_deeper(tmp_path: Path) -> None:
    folder = cell(tmp_path / "cell/data")
    (folder / "later").mkdir()
    (folder / "day2.csv").rename(folder / "later/day2.csv")
    (folder / "._day2.csv").write_bytes(b"\0\1")
    assert {r.group for r in read(tmp_path)} == {"day1 1", "day1 2", "later/day2 1", "later/day2 2"}


def test_what_has_no_label_or_is_too_short_is_left_out_and_named(tmp_path: Path) -> None:
    from loguru import logger

    said: list[str] = []
    sink = logger.add(lambda m: said.append(str(m)), format="{message}")
    try:
        cell(tmp_path, labels="file,assembly,label\nday1,1,1\nday1,2,0\n", lengths={"day1 2": 3})
        rows = read(tmp_path)
    finally:
        logger.remove(sink)
    assert {r.group for r in rows} == {"day1 1"}
    assert "left out 2 assemblies without a label, such as day2 1" in "".join(said)
    assert "left out 1 assemblies with fewer than 4 steps, such as day1 2" in "".join(said)


def test_a_missing_value_is_left_to_prepare(tmp_path: Path) -> None:
    path = cell(tmp_path) / "day1.csv"
    path.write_text(path.read_text().replace("t0,0,", "t0,,"))
    broken = [r.id for r in read(tmp_path) if np.isnan(np.asarray(r.x)).any()]
    assert broken == ["day1 1 0"]


@pytest.mark.parametrize(
    ("changed", "labels", "match"),
    [
        ({"labels": "other.csv"}, "", r"no other.csv under .*expected other.csv \(file,assembly,label\)"),
        ({"channels": ["a", "C"]}, "", r"no column 'C'; it has time, b, assembly, a.*task.channels"),
        ({"channels": ["tiem"]}, "", "did you mean 'time'"),
        ({"channels": ["time"]}, "", "no number in row 2"),
        ({"identifier": "piece"}, "", "labels.csv has no column 'piece'"),
        ({"steps": 9}, "", "has a label and 9 steps; 4 labels, such as day1 1; 0 assemblies without one, 4 too short"),
        ({}, "file,assembly,label\nday1,1,good\n", "has the label 'good'"),
        ({}, "file,assembly,label\nday1,1,1\nday1,1,0\n", "calls day1 1 both"),
        ({}, "file,assembly,label\n", "has no label"),
        ({}, "file,assembly,label\nday7,1,1\n", "1 labels, such as day7 1; 4 assemblies without one"),
        ({}, "file,assembly,label\nday1,1\n", "has 2 columns in row 2"),
        ({}, "file,assembly\nday1,1\n", "has no column 'label'"),
    ],
)
def test_what_is_not_so_is_said(tmp_path: Path, changed: dict[str, Any], labels: str, match: str) -> None:
    cell(tmp_path, labels=labels)
    with pytest.raises(DataError, match=match):
        read(tmp_path, **changed)


def test_an_empty_folder_shows_the_layout(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected labels\.csv"):
        read(tmp_path)
    (tmp_path / "labels.csv").write_text("file,assembly,label\nday1,1,1\n")
    with pytest.raises(DataError, match="no recordings beside"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"channels": []}, "task.channels"),
        ({"channels": ["a", "a"]}, "task.channels"),
        ({"channels": ["a", ""]}, "task.channels"),
        ({"identifier": "a"}, "task.identifier=a is a channel too"),
        ({"steps": 1}, "task.steps is 1"),
        ({"stride": 0}, "task.stride is 0"),
        ({"normalise": "recording"}, "training or window"),
        ({"labels": "a/b.csv"}, "task.labels"),
        ({"labels": ""}, "task.labels"),
    ],
)
def test_options_out_of_range_are_config_errors(changed: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        options(**changed)


def test_the_sample_is_windows_of_recordings_that_share_groups() -> None:
    rows = TASK.sample(30, Options())
    assert set(Counter(r.group for r in rows).values()) == {4, 2}
    assert Counter(r.y for r in rows) == {"correct": 16, "incorrect": 14}
    assert {np.asarray(r.x).shape for r in rows} == {TASK.spec(Options()).shape} == {(10, len(CHANNELS))}
    assert np.array_equal(np.asarray(rows[0].x)[5:], np.asarray(rows[1].x)[:5])  # overlapping, as real ones


def test_the_source_is_asked_for_with_the_layout(tmp_path: Path) -> None:
    from proj.fetch import get

    with pytest.raises(ConfigError, match=r"data.source=sample.*labels.csv \(file,assembly,label\)"):
        get.fetch("default", default=TASK.source(Options()), raw=tmp_path, task="wheel", help=TASK.source_help)
