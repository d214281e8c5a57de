"""Numbers that only grow, counted by several processes: each writes files of its own, and anyone adds them up.

`INDEX.values` holds float64s and is mapped into the writer's memory, so that counting is one addition there and a
process that is killed loses nothing. `INDEX.keys` has a line of JSON for each series: its name, its labels, and which
of the numbers are its own. Whoever takes a dead process's index goes on with its files: sums never go backwards, and
files do not pile up.
"""

from __future__ import annotations

import json
import mmap
import os
from array import array
from collections.abc import Iterator
from pathlib import Path

CHUNK_BYTES = 65_536  # what the file grows by: a multiple of every system's mapping granularity
CHUNK = CHUNK_BYTES // 8
FOLDER = "metrics"  # in that of the server

Key = tuple[str, tuple[str, ...]]
Cell = tuple["memoryview[float]", int]  # float64s, and where a series begins in them


class Tallies:
    """One process's numbers. Not for several threads at once."""

    def __init__(self, folder: Path, index: int | str) -> None:
        """`folder` is made where it is not there. Raises OSError where it cannot be written."""
        folder.mkdir(exist_ok=True)
        self._values, self._keys = folder / f"{index}.values", folder / f"{index}.keys"
        _cut(self._keys)
        self._places = {key: (start, n) for key, start, n in _places(self._keys)}
        self._next = max((start + n for start, n in self._places.values()), default=0)
        self._chunks: list[memoryview[float]] = []

    def series(self, name: str, labels: tuple[str, ...] = (), n: int = 1) -> Cell:
        """The `n` numbers of a series: those that it had, or zeros. Raises OSError when the disk is full."""
        start, _ = self._places.get((name, labels)) or self._add(name, labels, n)
        return self._chunk(start // CHUNK), start % CHUNK

    def _add(self, name: str, labels: tuple[str, ...], n: int) -> tuple[int, int]:
        start = self._next
        if start % CHUNK + n > CHUNK:  # no series crosses from one chunk into the next
            start += CHUNK - start % CHUNK
        self._chunk(start // CHUNK)
        with self._keys.open("ab") as file:
            file.write(json.dumps([name, labels, start, n]).encode() + b"\n")
        self._next = start + n
        self._places[name, labels] = start, n
        return start, n

    def _chunk(self, i: int) -> memoryview[float]:
        while len(self._chunks) <= i:
            self._chunks.append(_mapped(self._values, len(self._chunks) * CHUNK_BYTES))
        return self._chunks[i]


def _mapped(path: Path, offset: int) -> memoryview[float]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
    try:
        missing = offset + CHUNK_BYTES - os.fstat(fd).st_size
        if missing > 0:  # written, not only made longer: a full disk is then an error here and no signal later
            os.lseek(fd, 0, os.SEEK_END)
            os.write(fd, bytes(missing))
        return memoryview(mmap.mmap(fd, CHUNK_BYTES, offset=offset)).cast("d")
    finally:
        os.close(fd)


def _cut(path: Path) -> None:
    """Take away a last line that a killed process did not finish."""
    raw = path.read_bytes() if path.exists() else b""
    if not raw.endswith(b"\n"):
        path.write_bytes(raw[: raw.rfind(b"\n") + 1])


def _places(path: Path) -> Iterator[tuple[Key, int, int]]:
    """Every series of a file of keys, its first number, and how many it has."""
    raw = path.read_bytes() if path.exists() else b""
    for line in raw[: raw.rfind(b"\n") + 1].splitlines():
        name, labels, start, n = json.loads(line)
        yield (name, tuple(labels)), start, n


def totals(folder: Path) -> dict[Key, list[float]]:
    """Every series' numbers, added up over all processes, dead ones too."""
    sums: dict[Key, list[float]] = {}
    for path in sorted(folder.glob("*.keys")):
        places = list(_places(path))  # before the numbers: every series that is named has its numbers by then
        values = array("d", path.with_suffix(".values").read_bytes()) if places else array("d")
        for key, start, n in places:
            own = values[start : start + n].tolist()
            sums[key] = [a + b for a, b in zip(sums[key], own, strict=True)] if key in sums else own
    return sums
