"""Checkpoints are whole or not there, the newest are kept, and what cannot be written is said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from proj.errors import ResourceError
from proj.train import checkpoints
from proj.train.checkpoints import STEP, Clock, Writer


def content(step: int) -> dict[str, object]:
    return {"state_dict": {"w": torch.full((3,), float(step))}, "epoch": 0, "global_step": step,
            "pytorch-lightning_version": "2", "callbacks": {"a": [torch.zeros(1), (1, "x")]}}  # fmt: skip


def saved(folder: Path, *steps: int) -> Writer:
    writer = Writer()
    for step in steps:
        writer.save_checkpoint(content(step), folder / STEP.format(step))
    writer.wait()
    return writer


def test_what_is_saved_is_what_it_was_when_it_was_saved(tmp_path: Path) -> None:
    writer, c = Writer(), content(1)
    writer.save_checkpoint(c, tmp_path / "a.ckpt")
    c["state_dict"]["w"].fill_(7)  # type: ignore[index]
    writer.teardown()
    read = checkpoints.read(tmp_path / "a.ckpt")
    assert read["state_dict"]["w"].tolist() == [1, 1, 1]
    assert read["callbacks"]["a"][1] == (1, "x")


def test_the_best_holds_weights_alone(tmp_path: Path) -> None:
    writer = Writer()
    writer.save_checkpoint(content(1), tmp_path / checkpoints.BEST)
    writer.teardown()
    assert "callbacks" not in checkpoints.read(tmp_path / checkpoints.BEST)


def test_only_the_newest_are_kept_and_the_last_has_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    writer = saved(folder, 5, 900, 20_000, 100)
    writer.keep(folder, 2)
    writer.teardown()
    assert sorted(p.name for p in folder.iterdir()) == [STEP.format(900), STEP.format(20_000)]
    assert checkpoints.newest(tmp_path) == folder / STEP.format(20_000)
    checkpoints.settle(tmp_path)
    assert [p.name for p in folder.iterdir()] == [checkpoints.LAST]
    assert checkpoints.newest(tmp_path) == folder / checkpoints.LAST
    assert checkpoints.read(folder / checkpoints.LAST)["global_step"] == 20_000


def test_a_file_that_is_cut_off_never_has_a_checkpoints_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkpoints").mkdir()
    path = tmp_path / "checkpoints" / STEP.format(3)

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", dies)
    with pytest.raises(KeyboardInterrupt):
        checkpoints._write(content(3), path)
    assert checkpoints.newest(tmp_path) is None
    (tmp_path / "checkpoints" / "step-00000009.tmp").write_bytes(b"half")  # what SIGKILL leaves
    assert checkpoints.newest(tmp_path) is None
    checkpoints.clean(tmp_path)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_disk_that_is_full_stops_the_training_with_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    writer = Writer()
    writer.save_checkpoint(content(1), tmp_path / STEP.format(1))
    with pytest.raises(ResourceError, match=r"could not be written.*No space left.*--resume"):
        writer.wait()
    assert list(tmp_path.iterdir()) == []


def test_a_broken_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(ResourceError, match=r"x\.ckpt cannot be loaded"):
        checkpoints.read(tmp_path / "x.ckpt")


@pytest.mark.parametrize(("steps", "due"), [(0, []), (1, [1, 2, 3, 4]), (3, [3])])
def test_the_clock_counts_steps(steps: int, due: list[int]) -> None:
    clock = Clock(0, steps)
    assert [n for n in range(1, 5) if clock.due(n)] == due


def test_the_clock_counts_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now)
    clock = Clock(0.5, 0)
    now += 29
    assert not clock.due(1)
    now += 1
    assert clock.due(1)
    clock.saved(1, now)
    assert not clock.due(2)
