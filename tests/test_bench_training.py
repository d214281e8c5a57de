"""bench/training.py: its arithmetic and its words; slow, and where PROJ_PEERS names a Python: a tiny comparison."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "bench"))

import training  # noqa: E402
import training_sides as sides  # noqa: E402
from training_accuracy import Equal, lines  # noqa: E402
from training_table import Line, order, table  # noqa: E402


def test_the_ratio_says_how_many_times_as_fast() -> None:
    line = Line("full", "timm", 1.8, "images/s", ours=[200.0, 220.0, 150.0], theirs=[100.0, 100.0, 100.0])
    assert line.ratios == [2.0, 2.2, 1.5]
    assert line.median == 2.0
    assert line.holds


def test_of_seconds_the_ratio_is_theirs_over_ours() -> None:
    assert Line("frozen", "lightning", 5.0, "s", ours=[8.0], theirs=[44.0]).ratios == [5.5]


def test_what_may_be_at_most_is_ours_over_theirs() -> None:
    line = Line("start", "imports", 1.4, "s", least=False, ours=[3.0], theirs=[2.0])
    assert line.ratios == [1.5]
    assert line.holds is False


def test_what_was_not_measured_neither_holds_nor_fails() -> None:
    line = Line("full", "fastai", 1.8, "images/s", missing="not measured: no --peers")
    assert line.holds is None
    assert "no --peers" in table([line])[1]
    assert json.dumps(line.content())


def test_the_table_has_medians_range_and_bar() -> None:
    line = Line("full", "timm", 1.8, "images/s", ours=[200.0, 220.0, 150.0], theirs=[100.0, 100.0, 100.0])
    assert " ".join(table([line])[1].split()) == "full timm 200 100 images/s 2.00 1.50..2.20 ≥ 1.8 holds"
    line.bar = 2.1
    assert table([line])[1].endswith("MISSED")


def test_rounds_go_there_and_back() -> None:
    assert [order(["a", "b", "c"], i) for i in range(2)] == [["a", "b", "c"], ["c", "b", "a"]]


def test_as_good_is_not_worse_by_more_than_the_seeds_differ() -> None:
    made = Equal("full", "lightning", 100, ours=[0.80, 0.84, 0.82], theirs=[0.81, 0.85, 0.83])
    assert made.gap == pytest.approx(-0.01)
    assert made.noise == pytest.approx(2 * (2 * 0.02**2 / 3) ** 0.5)
    assert made.holds
    made.theirs = [0.90, 0.91, 0.89]
    assert made.holds is False
    made.ours = [0.95, 0.96, 0.94]
    assert made.holds
    assert json.dumps(made.content())


def test_equal_seeds_leave_a_row_of_noise_and_one_seed_tells_nothing() -> None:
    made = Equal("full", "lightning", 100, ours=[0.80, 0.80], theirs=[0.809, 0.809])
    assert made.noise == 0.01
    assert made.holds
    made = Equal("full", "lightning", 100, ours=[0.80], theirs=[0.90])
    assert made.holds is None
    assert "one seed" in lines([made])[1][-1]
    missing = Equal("full", "lightning", 100, missing="not measured: no --peers")
    assert missing.holds is None
    assert missing.content()["holds"] is None
    assert lines([missing])[1][-1] == "not measured: no --peers"


def clock(**epochs: list[float]) -> dict[str, Any]:
    each = [dict(zip(("steps", "images", "seconds"), e, strict=True)) for e in epochs.values()]
    return {"began": 103.0, "ended": 113.0, "first_step": 104.5, "epochs": each}


def test_the_first_epoch_is_not_timed(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "last.ckpt").touch()
    os.utime(weights / "last.ckpt", (120.0, 120.0))
    three = clock(a=[2, 60, 9.0], b=[2, 60, 2.0], c=[2, 60, 4.0])
    got = sides.times(three, start=100.0, weights=weights, accuracy=0.5)
    assert (got.images_per_s, got.steps_per_s, got.images_an_epoch) == (20.0, 4 / 6, 60)
    assert (got.first_step_s, got.training_s, got.whole_s) == (4.5, 10.0, 20.0)


def test_weights_that_were_best_early_are_known_to_be_the_best_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "best.ckpt").touch()
    os.utime(tmp_path / "best.ckpt", (106.0, 106.0))
    got = sides.times(clock(a=[1, 32, 2.0]), start=100.0, weights=tmp_path, accuracy=0.5)
    assert got.whole_s == 13.0


def test_of_one_epoch_that_one_is_timed() -> None:
    assert sides.times(clock(a=[1, 32, 2.0]), start=0.0, weights=None, accuracy=0.0).images_per_s == 16.0


def test_no_weights_are_no_training(tmp_path: Path) -> None:
    (tmp_path / "history.csv").touch()
    with pytest.raises(sides.SideError, match="no weights"):
        sides.newest(tmp_path)


def test_each_side_starts_bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "PYTHONDONTWRITEBYTECODE", "LD_PRELOAD", "OTHER"):
        monkeypatch.setenv(name, "3")
    assert sides.bare(0).get("OTHER") == "3"
    assert not {"OMP_NUM_THREADS", "PYTHONDONTWRITEBYTECODE", "LD_PRELOAD"} & sides.bare(0).keys()
    assert sides.bare(2)["OMP_NUM_THREADS"] == "2"


def process(folder: Path, code: str, limit_s: float = 30) -> str:
    return sides.run([sys.executable, "-c", code], cwd=folder, env=sides.bare(0), log=folder / "log", limit_s=limit_s)


def test_a_side_that_fails_says_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(sides.SideError, match="exit code 3: no such thing"):
        process(tmp_path, "import sys; print('no such thing', file=sys.stderr); sys.exit(3)")
    assert process(tmp_path, "print('yes')") == "yes\n"


@pytest.mark.slow
def test_a_side_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    code = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open("child", "w").write(str(child.pid))
time.sleep(60)
"""
    with pytest.raises(sides.SideError, match="stopped after 2 s"):
        process(tmp_path, code, limit_s=2)
    pid = int((tmp_path / "child").read_text())
    for _ in range(100):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().split(")")[1].split()[0] == "Z":
            return
        time.sleep(0.05)
    pytest.fail("the child lives on")


def test_the_journal_says_how_long_checkpoints_blocked() -> None:
    log = "12:00 checkpoint: step 40, blocked 12.5 ms\n12:01 epoch 1\n12:02 checkpoint: step 80, blocked 7.5 ms\n"
    assert training.blocked_s(log) == [0.0125, 0.0075]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--pairs", "0"], "--pairs must be 1 or more"),
        (["--epochs", "1"], "--epochs must be 2 or more"),
        (["--images", "-1"], "--images must be 0 or more"),
        (["--rows", "ful"], "invalid choice: 'ful'"),
    ],
)
def test_wrong_words_are_named(words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as e:
        training.arguments([str(tmp_path), *words])
    assert e.value.code == 2
    assert said in capsys.readouterr().err


def test_no_folder_of_photos_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        training.arguments([str(tmp_path / "none")])
    assert "none is not a folder" in capsys.readouterr().err


def test_peers_that_are_no_python_are_named(tmp_path: Path) -> None:
    with pytest.raises(sides.SideError, match="no Python that runs"):
        sides.versions(str(tmp_path / "python"))
    assert sides.versions(sys.executable)["torch"]


@pytest.mark.slow
def test_a_tiny_comparison(tmp_path: Path) -> None:
    """Ours beside the step alone; where PROJ_PEERS names the peers' Python, every row. All of it is written."""
    from made_projects import photos

    peers = os.environ.get("PROJ_PEERS")
    out = tmp_path / "out.json"
    command = [
        sys.executable, str(ROOT / "bench" / "training.py"), str(photos(tmp_path / "photos", each=40)),
        "--backbones", "test_resnet", "--size", "32", "--batch", "16", "--images", "240", "--pairs", "1",
        "--epochs", "2", "--frozen-epochs", "2", "--tiny-epochs", "2", "--threads", "1", "--json", str(out),
        *(["--peers", peers] if peers else ["--rows", "full", "step"]),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in {0, 1}, done.stderr
    said = json.loads(out.read_text())
    measured = {x["against"] for x in said["lines"] if x["ours"]}
    every = {"lightning", "fastai", "timm", "the step alone", "imports", "a raw loop", "its time"}
    assert measured == (every if peers else {"the step alone"}), done.stderr
    assert all(x["ours"] or "--peers" in x["missing"] for x in said["lines"])
    ours = next(r for r in said["ran"] if r["side"] == "ours")
    assert ours["images_an_epoch"] == said["photos"][0]["rows"]["train"]
    assert 0 < ours["first_step_s"] < ours["whole_s"]
