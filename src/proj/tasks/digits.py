"""Handwritten digits: scikit-learn's copy of the UCI test set (1,797 drawings, 8 x 8, by 13 writers), BSD-3-Clause.

The file lies inside scikit-learn, so that this task needs no network. Source: E. Alpaydin and C. Kaynak, "Optical
Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from proj import task
from proj.errors import ConfigError, DataError
from proj.preprocess.spec import ImageSpec
from proj.task import Row, Task

NAMES = tuple("0123456789")
SIDE_PX = 8
INK_MAX = 16  # each cell counts the dark pixels of a 4 x 4 block of the scanned drawing


@dataclass(kw_only=True)
class Options(task.Options):
    """`block`: neighbouring rows that stay in one split; they come in the order of their writers."""

    block: int = 20

    def __post_init__(self) -> None:
        if self.block < 1:
            raise ConfigError(f"task.block is {self.block}", next="it must be 1 or more")


def read(source: Path, options: Options) -> Iterator[Row]:
    """Rows of `digits.csv.gz`: 64 counts 0..16, then the class."""
    path = source / "digits.csv.gz" if source.is_dir() else source
    try:
        with gzip.open(path, "rt", encoding="ascii") as f:
            lines = [line for line in f.read().splitlines() if line.strip()]
        table = np.loadtxt(lines, delimiter=",", dtype=np.int64, ndmin=2) if lines else np.empty((0, 0))
    except (OSError, EOFError, ValueError, OverflowError, zlib.error) as e:
        raise DataError(
            f"{path} cannot be read as digits",
            found=str(e),
            next="expected digits.csv.gz: 64 counts and a class a row",
        ) from None
    if table.shape[1] != SIDE_PX**2 + 1:
        raise DataError(f"{path} is not a table of digits", found=f"{table.shape[1]} columns; expected 65")
    most = np.array([INK_MAX] * SIDE_PX**2 + [len(NAMES) - 1])
    if not ((table >= 0) & (table <= most)).all():
        row = int(np.flatnonzero(((table < 0) | (table > most)).any(1))[0])
        raise DataError(f"{path} is not a table of digits", found=f"line {row + 1}: counts are 0..16, classes 0..9")
    pixels = np.round(table[:, :-1] * (255 / INK_MAX)).astype(np.uint8).reshape(-1, SIDE_PX, SIDE_PX)
    for i, (x, y) in enumerate(zip(pixels, table[:, -1], strict=True)):
        yield Row(id=f"row {i}", group=f"block {i // options.block}", x=x, y=NAMES[y])


# The strokes of seven-segment digits: top, upper left, upper right, middle, lower left, lower right, bottom.
_SEGMENTS = (
    "1110111",
    "0010010",
    "1011101",
    "1011011",
    "0111010",
    "1101011",
    "1101111",
    "1010010",
    "1111111",
    "1111011",
)
_AREAS: tuple[Any, ...] = (
    (0, slice(2, 6)),
    (slice(1, 4), 1),
    (slice(1, 4), 6),
    (slice(3, 5), slice(2, 6)),
    (slice(4, 7), 1),
    (slice(4, 7), 6),
    (7, slice(2, 6)),
)


def sample(n: int, _: Options) -> list[Row]:
    """Synthetic: `n` seven-segment digits, with noise."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        s = _SEGMENTS[i % 10]
        x = rng.integers(0, 30, (SIDE_PX, SIDE_PX))
        for on, area in zip(s, _AREAS, strict=True):
            if on == "1":
                x[area] = rng.integers(200, 256)
        rows.append(Row(id=f"sample {i}", group=f"sample {i}", x=x.astype(np.uint8), y=NAMES[i % 10]))
    return rows


TASK = Task(
    name="digits",
    title="Handwritten digits",
    question="Which digit is this?",
    modality="image",
    kind="classes",
    options=Options,
    default_source="package:sklearn/datasets/data/digits.csv.gz",
    read=read,
    sample=sample,
    spec=lambda _: ImageSpec(height_px=SIDE_PX, width_px=SIDE_PX, channels=1, fit="ink", ink_px=SIDE_PX),
    names=lambda _: NAMES,
    page_input="sketch",
    source_help="the file is part of scikit-learn: `uv sync --extra train` installs it",
)
