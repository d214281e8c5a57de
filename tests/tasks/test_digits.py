"""The task `digits`: rows in their writers' order, blocks that stay together."""

from __future__ import annotations

import gzip
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from proj.errors import ConfigError
from proj.tasks.digits import TASK, Options


def table(tmp_path: Path) -> Path:
    rows = [",".join([*(str((i + k) % 17) for k in range(64)), str(i % 10)]) for i in range(45)]
    (tmp_path / "digits.csv.gz").write_bytes(gzip.compress("\n".join(rows).encode()))
    return tmp_path


def test_rows_come_in_the_files_order_with_counts_as_grey_levels(tmp_path: Path) -> None:
    rows = list(TASK.read(table(tmp_path), Options()))
    assert [r.y for r in rows[:11]] == [*"0123456789", "0"]
    assert [r.id for r in rows[:2]] == ["row 0", "row 1"]
    x = rows[3].x
    assert isinstance(x, np.ndarray)
    assert (x.shape, x.dtype) == ((8, 8), np.uint8)
    assert x.flatten()[:14].tolist() == [round((3 + k) % 17 * 255 / 16) for k in range(14)]


@pytest.mark.parametrize("block", [1, 7, 20])
def test_neighbouring_rows_are_one_group(tmp_path: Path, block: int) -> None:
    groups = [r.group for r in TASK.read(table(tmp_path), Options(block=block))]
    assert groups == [f"block {i // block}" for i in range(45)]


def test_a_block_of_nought_rows_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"task\.block is 0"):
        Options(block=0)


def test_the_sample_is_deterministic_and_has_every_class() -> None:
    a, b = TASK.sample(25, Options()), TASK.sample(25, Options())
    assert [r.y for r in a[:10]] == list("0123456789")
    assert len({r.id for r in a}) == 25
    for p, q in zip(a, b, strict=True):
        assert isinstance(p.x, np.ndarray)
        assert np.array_equal(p.x, q.x)


def test_the_default_source_is_a_file_of_scikit_learn() -> None:
    package, _, inside = TASK.default_source.removeprefix("package:").partition("/")
    assert (files(package) / inside).is_file()
