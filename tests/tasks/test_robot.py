"""The task `robot`: the archive's own text form and the CSV form, one problem at a time."""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from proj.errors import ConfigError, DataError
from proj.preprocess.series import decode
from proj.task import Row
from proj.tasks.robot import CHANNELS, COLUMNS, TASK, Options

RECORDINGS = [(label, np.arange(90).reshape(15, 6) * (-1) ** i + i) for i, label in enumerate(["normal", "collision"])]


def read(source: Path, problem: str = "lp1") -> list[Row]:
    return list(TASK.read(source, Options(problem=problem)))


def data(*recordings: tuple[str, np.ndarray]) -> str:
    """As the archive writes it: a label, lines that begin with a tab, a blank line."""
    lines = ("".join("\t" + "\t".join(map(str, step)) + "\n" for step in x) for _, x in recordings)
    return "".join(f"{label}\n{body}\n" for (label, _), body in zip(recordings, lines, strict=True))


def table(*recordings: tuple[str, np.ndarray], lp: str = "lp1") -> str:
    lines = [",".join(["lp", "instance", "label", *COLUMNS])]
    lines += [f"{lp},{i},{label}," + ",".join(map(str, x.ravel())) for i, (label, x) in enumerate(recordings)]
    return "\n".join(lines) + "\n"


def windows(rows: list[Row]) -> list[np.ndarray]:
    return [decode(r.x, TASK.spec(Options())) for r in rows]  # type: ignore[arg-type]


@pytest.mark.parametrize("count", ["", "2\n"])
def test_the_archive_and_the_table_give_the_same_rows(tmp_path: Path, count: str) -> None:
    (tmp_path / "a/deep").mkdir(parents=True)
    (tmp_path / "a/deep/LP1.data").write_text(count + data(*RECORDINGS))
    (tmp_path / "lp1.csv").write_text(table(*RECORDINGS))
    rows = read(tmp_path / "a")
    again = read(tmp_path / "lp1.csv")
    assert [(r.id, r.y) for r in rows] == [("lp1 0", "normal"), ("lp1 1", "collision")]
    for r, s, (_, x) in zip(rows, again, RECORDINGS, strict=True):
        assert (r.id, r.group, r.y) == (s.id, s.group, s.y)
        assert np.array_equal(np.asarray(r.x), x)
        assert np.array_equal(np.asarray(s.x), x)
    assert [w.shape for w in windows(rows)] == [TASK.spec(Options()).shape] * 2


def test_problems_are_never_joined(tmp_path: Path) -> None:
    (tmp_path / "lp1.data").write_text(data(RECORDINGS[0]))
    (tmp_path / "lp4.data").write_text(data(*RECORDINGS[:1], ("obstruction", RECORDINGS[1][1])))
    assert [r.y for r in read(tmp_path)] == ["normal"]
    four = read(tmp_path, "lp4")
    assert [r.id for r in four] == ["lp4 0", "lp4 1"]
    assert TASK.names_of(four, Options(problem="lp4")) == ("normal", "obstruction")
    both = tmp_path / "all.csv"
    both.write_text(table(*RECORDINGS) + "".join(table(*RECORDINGS, lp="lp2").splitlines(True)[1:2]))
    assert len(read(both)) == 2
    assert len(read(both, "lp2")) == 1


def test_equal_recordings_share_a_group_whatever_their_label(tmp_path: Path) -> None:
    x = RECORDINGS[0][1]
    (tmp_path / "lp1.data").write_text(data(("a", x), ("b", x), ("a", x + 1)))
    groups = [r.group for r in read(tmp_path)]
    assert groups[0] == groups[1] != groups[2]


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("lp2.data", "", "no recordings of lp1 .* expected lp1.data or lp1.csv"),
        ("lp1.data", data(*RECORDINGS)[:-9], "recording 1, 'collision', is not 15 x 6 numbers"),
        ("lp1.data", data(*RECORDINGS).replace("\t5\n", "\tx\n", 1), "recording 0, 'normal', is not 15 x 6 numbers"),
        ("lp1.csv", table(*RECORDINGS).replace("Ty_07", "Ty"), "lacks the column Ty_07"),
        ("lp1.csv", table(*RECORDINGS).replace(",88,", ",,"), "line 2 is not 15 x 6 numbers"),
        ("lp1.csv", table(*RECORDINGS, lp="lp3"), "has no recording of lp1; it has lp3"),
        ("lp1.csv", "", "lacks the column"),
    ],
)
def test_what_is_not_so_is_said(tmp_path: Path, name: str, content: str, match: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=match):
        read(tmp_path)


def test_an_unknown_problem_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"task.problem is 'lp6'; it must be one of lp1, .*lp5"):
        Options(problem="lp6")


def test_the_sample_has_three_kinds_that_differ() -> None:
    rows = TASK.sample(30, Options())
    assert Counter(r.y for r in rows) == {"collision": 10, "normal": 10, "obstruction": 10}
    strength = {r.y: float(np.abs(np.asarray(r.x)).max()) for r in rows}
    assert strength["normal"] < 15 < strength["collision"]
    assert not np.array_equal(np.asarray(rows[0].x), np.asarray(TASK.sample(30, Options(problem="lp5"))[0].x))


# --- the real recordings


@pytest.mark.real_data
@pytest.mark.parametrize(("problem", "rows", "classes"), [("lp1", 67, 4), ("lp2", 39, 5), ("lp3", 39, 4),
                                                          ("lp4", 86, 3), ("lp5", 124, 5)])  # fmt: skip
def test_the_real_recordings_in_both_forms(
    real_data: Path, tmp_path: Path, problem: str, rows: int, classes: int
) -> None:
    found = read(real_data / "series/robot_execution_failures", problem)
    assert len(found) == rows
    assert len(TASK.names_of(found, Options(problem=problem))) == classes
    own = data(*((str(r.y), np.asarray(r.x).astype(int)) for r in found))
    with zipfile.ZipFile(tmp_path / "robot.zip", "w") as z:
        z.writestr(f"{problem}.data", own)
    zipfile.ZipFile(tmp_path / "robot.zip").extractall(tmp_path / "out")
    again = read(tmp_path / "out", problem)
    assert [(r.y, r.group) for r in again] == [(r.y, r.group) for r in found]
    assert all(np.array_equal(np.asarray(r.x), np.asarray(s.x)) for r, s in zip(found, again, strict=True))
    assert len(CHANNELS) == np.asarray(found[0].x).shape[1]
