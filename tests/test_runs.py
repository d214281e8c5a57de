"""Run directories: made, locked, read back, and what a killed or broken one reads as."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from proj import runs
from proj.errors import ResourceError, RunNotFound, UsageError
from proj.runs import Record

HOLD = """
import sys, time
from pathlib import Path
from proj import runs
with runs.lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def record(**fields: object) -> Record:
    return Record(**{"task": "digits", "run": "", **fields})  # type: ignore[arg-type]


def hold(folder: Path) -> subprocess.Popen[str]:
    """Another process that holds the run's lock until its stdin ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def test_a_run_is_called_after_the_time_and_says_so_in_its_record(tmp_path: Path) -> None:
    r = record(seed=7)
    folder = runs.create(tmp_path, r)
    assert folder == tmp_path / "digits" / r.run
    assert (folder / "checkpoints").is_dir()
    with runs.lock(folder):
        back = runs.read(folder)
    assert (back.run, back.seed, back.status, back.started) == (folder.name, 7, "running", r.started)


def test_two_runs_in_one_second_have_two_names(tmp_path: Path) -> None:
    assert len({runs.create(tmp_path, record()).name for _ in range(20)}) == 20


def test_a_name_that_is_taken_needs_replace(tmp_path: Path) -> None:
    old = runs.create(tmp_path, record(), name="mine")
    (old / "weights").write_text("old")
    with pytest.raises(UsageError, match="--replace"):
        runs.create(tmp_path, record(), name="mine")
    assert (old / "weights").is_file()
    assert runs.create(tmp_path, record(), name="mine", replace=True) == old
    assert not (old / "weights").exists()


@pytest.mark.parametrize("name", ["..", ".", "a/b", "/abs", "../x", "-x", ".hidden", "a b", "a\\b", "a@1", "x" * 101])
def test_a_name_that_cannot_be_one_makes_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a run"):
        runs.create(tmp_path / "models", record(), name=name, replace=True)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_works_is_not_replaced(tmp_path: Path) -> None:
    folder = runs.create(tmp_path, record(), name="mine")
    other = hold(folder)
    try:
        with pytest.raises(ResourceError, match="in use by another process"):
            runs.create(tmp_path, record(), name="mine", replace=True)
        assert (folder / "run.json").is_file()
    finally:
        other.communicate()


def test_only_one_process_holds_a_run(tmp_path: Path) -> None:
    folder = runs.create(tmp_path, record())
    other = hold(folder)
    try:
        with pytest.raises(ResourceError, match="in use"), runs.lock(folder):
            pass
        assert runs.read(folder).status == "running"
    finally:
        other.communicate()
    with runs.lock(folder):
        pass


def test_a_killed_run_reads_as_failed(tmp_path: Path) -> None:
    folder = runs.create(tmp_path, record())
    other = hold(folder)
    assert runs.read(folder).status == "running"
    other.kill()
    other.communicate()
    assert runs.read(folder).status == "failed"
    assert json.loads((folder / "run.json").read_text())["status"] == "running"


def test_reading_does_not_take_the_lock_from_the_run(tmp_path: Path) -> None:
    folder = runs.create(tmp_path, record())
    with runs.lock(folder):
        assert runs.read(folder).status == "running"
        assert runs.read(folder).status == "running"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ResourceError, match="no run directory"):
            runs.create(tmp_path / "models", record())
    finally:
        tmp_path.chmod(0o700)


def test_a_file_in_the_way_of_models_is_said(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("")
    with pytest.raises(ResourceError, match="no run directory"):
        runs.create(tmp_path / "models", record())


def test_a_write_that_breaks_off_leaves_the_old_record(tmp_path: Path) -> None:
    folder = runs.create(tmp_path, record(seed=1))
    before = (folder / "run.json").read_bytes()
    with pytest.raises(TypeError):
        runs.write(folder, record(run=folder.name, notes=[object()]))
    assert (folder / "run.json").read_bytes() == before


def test_a_full_disk_leaves_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = runs.create(tmp_path, record(seed=1))
    before = (folder / "run.json").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("proj.runs.os.replace", full)
    with pytest.raises(OSError, match="No space"):
        runs.write(folder, record(run=folder.name, seed=2))
    assert (folder / "run.json").read_bytes() == before


BROKEN = {
    "empty": b"",
    "cut off": b'{"task": "digits", "run": "r", "sta',
    "list": b"[]",
    "null": b"null",
    "number": b"3",
    "text": b'"x"',
    "without a task": b'{"run": "r"}',
    "task is a number": b'{"task": 1, "run": "r"}',
    "unknown status": b'{"task": "digits", "run": "r", "status": "odd"}',
    "status is a list": b'{"task": "digits", "run": "r", "status": []}',
    "started is a number": b'{"task": "digits", "run": "r", "started": 5}',
    "started is null": b'{"task": "digits", "run": "r", "started": null}',
    "fast is text": b'{"task": "digits", "run": "r", "fast": "no"}',
    "folds is text": b'{"task": "digits", "run": "r", "folds": "x"}',
    "seed is true": b'{"task": "digits", "run": "r", "seed": true}',
    "overrides is text": b'{"task": "digits", "run": "r", "overrides": "x"}',
    "nested deep": b"[" * 100_000,
    "a huge number": b'{"task": "digits", "run": "r", "seed": ' + b"9" * 5000 + b"}",
    "UTF-16": '{"task": "digits", "run": "r"}'.encode("utf-16"),
    "not UTF-8": b"\xff",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_record_is_no_run_and_harms_no_other(tmp_path: Path, content: bytes) -> None:
    good = runs.create(tmp_path, record(), name="good")
    bad = tmp_path / "digits" / "bad"
    bad.mkdir()
    (bad / "run.json").write_bytes(content)
    with pytest.raises(RunNotFound, match="not a run directory"):
        runs.read(bad)
    assert [folder for folder, _ in runs.every(tmp_path)] == [good]


def test_a_folder_in_the_records_place_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "run.json").mkdir()
    with pytest.raises(RunNotFound):
        runs.read(tmp_path)


def test_a_record_from_a_later_version_can_be_read(tmp_path: Path) -> None:
    r = asdict(record(run="r", status="finished")) | {"news": 1}
    runs.write_json(tmp_path / "run.json", r)
    assert runs.read(tmp_path).status == "finished"


def test_every_is_newest_first_and_of_one_task(tmp_path: Path) -> None:
    for task, day in (("digits", "02"), ("trashnet", "03"), ("digits", "01")):
        folder = tmp_path / task / day
        folder.mkdir(parents=True)
        runs.write(folder, record(task=task, run=day, status="finished", started=f"2026-01-{day}T00:00:00+00:00"))
    assert [r.run for _, r in runs.every(tmp_path)] == ["03", "02", "01"]
    assert [r.run for _, r in runs.every(tmp_path, "digits")] == ["02", "01"]
    assert runs.every(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("fields", "picked"),
    [
        ({"status": "finished"}, True),
        ({"status": "running"}, False),
        ({"status": "failed"}, False),
        ({"status": "finished", "fast": True}, False),
        ({"status": "finished", "sample": True}, False),
        ({"status": "finished", "trial": True}, False),
        ({"status": "finished", "folds": 5}, False),
    ],
    ids=str,
)
def test_which_run_may_be_picked_unnamed(fields: dict[str, object], picked: bool) -> None:
    assert runs.eligible(record(**fields)) is picked


def test_free_bytes_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    assert runs.free_bytes(tmp_path / "a" / "b") > 0
