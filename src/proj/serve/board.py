"""What the workers of one server know of each other: a table in memory that they share, with a row for each worker.

A row is written by its own worker alone, and the sum over all rows is read by everyone, so that nothing needs a lock
and a worker that is killed leaves none behind. Numbers are aligned float64, which a processor writes whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = ("waiting", "connections", "draining")  # inputs that wait; open connections; 1 once told to stop
FILE_NAME = "board"


class Board:
    """A worker's view: its own row, and the sums."""

    def __init__(self, folder: Path, index: int) -> None:
        table: Any = np.memmap(folder / FILE_NAME, np.float64, "r+").reshape(-1, len(COLUMNS))
        self._all = [table[:, i] for i in range(len(COLUMNS))]
        self._own = table[index]

    def set(self, column: int, value: float) -> None:
        """Write the worker's own number."""
        self._own[column] = value

    def total(self, column: int) -> int:
        """All workers' numbers together."""
        return int(self._all[column].sum())


WAITING, CONNECTIONS, DRAINING = range(len(COLUMNS))


def create(folder: Path, workers: int) -> None:
    """Make the table, all zeros."""
    np.zeros((workers, len(COLUMNS))).tofile(folder / FILE_NAME)


def clear(folder: Path, index: int) -> None:
    """Forget a worker that has died."""
    np.memmap(folder / FILE_NAME, np.float64, "r+").reshape(-1, len(COLUMNS))[index] = 0
