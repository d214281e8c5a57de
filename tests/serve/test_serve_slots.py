"""Which version of a name answers, in all workers at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from bundles import make_bundle

from proj import infer
from proj.errors import Busy
from proj.serve import board, slots
from proj.serve.slots import FIRST, Slot


@pytest.fixture
def old(tmp_path: Path) -> infer.Model:
    return infer.load(make_bundle(tmp_path / "old", version="v1", seed=1), threads=1)


@pytest.fixture
def new(tmp_path: Path) -> infer.Model:
    return infer.load(make_bundle(tmp_path / "new", version="v2", seed=2), threads=1)


def workers(folder: Path, model: infer.Model) -> tuple[memoryview[float], list[list[Slot]]]:
    """What the supervisor writes, and the slots of two workers with two names each."""
    ids = slots.create(folder, 2)
    seen = [board.mapped(folder / slots.IDS) for _ in range(2)]
    return ids, [[Slot(n, model.manifest, model, view, i) for i, n in enumerate("ab")] for view in seen]


def test_one_number_switches_a_name_in_all_workers(tmp_path: Path, old: infer.Model, new: infer.Model) -> None:
    ids, found = workers(tmp_path, old)
    for _, b in found:
        b.waiting[FIRST + 1] = new
        assert b.take() is old
    ids[1] = FIRST + 1
    for a, b in found:
        assert a.take() is old
        assert b.manifest.version == "v2"
        assert b.take() is b.model is new
        assert not b.waiting


def test_where_the_next_version_is_not_there_the_old_one_stays(
    tmp_path: Path, old: infer.Model, new: infer.Model
) -> None:
    ids, ((a, _), _) = workers(tmp_path, old)
    ids[0] = FIRST + 1
    assert a.take() is old
    a.waiting[FIRST + 1] = new
    assert a.take() is new


def test_a_worker_that_comes_later_begins_with_what_is_served(tmp_path: Path, new: infer.Model) -> None:
    ids = slots.create(tmp_path, 1)
    ids[0] = FIRST + 1
    slot = Slot("a", new.manifest, ids=board.mapped(tmp_path / slots.IDS))
    with pytest.raises(Busy):
        slot.take()
    slot.switch(new)
    assert slot.take() is new
