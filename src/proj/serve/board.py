"""What the workers of one server know of each other: a table in memory that they share, with a row for each worker.

A row is written by its own worker alone, and the sum over all rows is read by everyone, so that nothing needs a lock
and a worker that is killed leaves none behind. Numbers are aligned float64, which a processor writes whole.
"""

from __future__ import annotations

import mmap
from pathlib import Path

# Inputs that wait; open connections; 1 once told to stop; bytes of uploads under way.
COLUMNS = ("waiting", "connections", "draining", "uploads")
WAITING, CONNECTIONS, DRAINING, UPLOADS = range(len(COLUMNS))
FILE_NAME = "board"
ROW_BYTES = 8 * len(COLUMNS)


class Board:
    """A worker's view: its own row, and the sums."""

    def __init__(self, folder: Path, index: int) -> None:
        self._cells, self._row = mapped(folder / FILE_NAME), index * len(COLUMNS)
        self._alone = len(self._cells) == len(COLUMNS)

    def set(self, column: int, value: float) -> None:
        """Write the worker's own number."""
        self._cells[self._row + column] = value

    def own(self, column: int) -> int:
        """The worker's own number."""
        return int(self._cells[self._row + column])

    def total(self, column: int) -> int:
        """All workers' numbers together."""
        if self._alone:
            return int(self._cells[column])
        return int(sum(self._cells[column :: len(COLUMNS)].tolist()))


def create(folder: Path, workers: int) -> None:
    """Make the table, all zeros."""
    (folder / FILE_NAME).write_bytes(bytes(workers * ROW_BYTES))


def clear(folder: Path, index: int) -> None:
    """Forget a worker that has died."""
    cells, row = mapped(folder / FILE_NAME), index * len(COLUMNS)
    for column in range(len(COLUMNS)):
        cells[row + column] = 0.0


def mapped(path: Path) -> memoryview[float]:
    """A file of float64 as memory that all who map it share."""
    with path.open("r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), 0)).cast("d")
