"""`proj.data.store`: what is read is what was written, and a folder that is not whole is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_projects import Finished, prepared

from proj.data import store
from proj.errors import DataError


@pytest.fixture
def folder(finished: Finished, tmp_path: Path) -> Path:
    """A copy of the prepared digits."""
    return Path(shutil.copytree(prepared(finished.job).folder, tmp_path / "prepared"))


def test_x_stays_on_the_disk_and_cannot_be_written(folder: Path) -> None:
    p = store.open_(folder)
    assert isinstance(p.x, np.memmap)
    assert not p.x.flags.writeable
    assert (p.x.dtype, p.y.dtype, p.split.dtype) == (np.uint8, np.int64, np.uint8)
    assert p.group.dtype.kind == p.id.dtype.kind == "U"


def test_splits_are_whole_and_apart(folder: Path) -> None:
    p = store.open_(folder)
    parts = [p.rows(n) for n in ("train", "val", "test")]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(p.x)))
    assert all((np.diff(part) > 0).all() for part in parts)


def test_meta_comes_back_as_it_was(folder: Path) -> None:
    meta = store.open_(folder).meta
    store.write_meta(folder, meta)
    assert store.open_(folder).meta == meta


def _cut(folder: Path) -> None:
    np.save(folder / "y.npy", np.zeros(3, np.int64))


def _pickle(folder: Path) -> None:
    np.save(folder / "id.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)


def _older(folder: Path) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    del meta["std"]
    (folder / "meta.json").write_text(json.dumps(meta))


BROKEN: dict[str, Callable[[Path], object]] = {
    "no meta": lambda f: (f / "meta.json").unlink(),
    "meta not JSON": lambda f: (f / "meta.json").write_text("{"),
    "meta is a list": lambda f: (f / "meta.json").write_text("[]"),
    "meta lacks a key": _older,
    "no x": lambda f: (f / "x.npy").unlink(),
    "x cut off": lambda f: (f / "x.npy").write_bytes((f / "x.npy").read_bytes()[:5000]),
    "x is text": lambda f: (f / "x.npy").write_text("hello"),
    "empty y": lambda f: (f / "y.npy").write_bytes(b""),
    "lengths differ": _cut,
    "a pickle": _pickle,
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_folder_that_is_not_whole_is_refused(folder: Path, kind: str) -> None:
    BROKEN[kind](folder)
    with pytest.raises(DataError, match="delete"):
        store.open_(folder)
