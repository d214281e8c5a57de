"""The prepared folder, as far as a report shows it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from proj.report import files

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Prepared:
    """The prepared folder. `split` 0 train, 1 val, 2 test. Inputs are memory-mapped.

    `x`: pictures uint8 (N, H, W, C) or (N, views, H, W, C), or series float32 (N, steps, channels); None for texts.
    `letters` uint8 and `offset` int64 (N + 1,): texts as UTF-8, one after the other; None for anything else.
    """

    meta: dict[str, Any]
    y: Array
    split: Array
    group: Array | None
    x: Array | None
    letters: Array | None = None
    offset: Array | None = None

    @property
    def shows(self) -> str:
        """What its rows can be shown as: image, series, text, or "" when its inputs are not there."""
        if self.letters is not None:
            return "text"
        if self.x is None:
            return ""
        if self.x.ndim in (4, 5) and self.x.shape[-1] in (1, 3):
            return "image"
        return "series" if self.x.ndim == 3 else ""

    @property
    def channels(self) -> list[str]:
        """Names of a series' channels."""
        assert self.x is not None
        named = [str(c) for c in (self.meta.get("preprocess") or {}).get("channels") or []]
        return named if len(named) == self.x.shape[-1] else [str(c) for c in range(self.x.shape[-1])]

    def text(self, i: int) -> str:
        assert self.letters is not None
        assert self.offset is not None
        return bytes(self.letters[self.offset[i] : self.offset[i + 1]]).decode("utf-8", "replace")


def read(folder: Path | None) -> Prepared | None:
    """None when the folder is not there; raises CheckFailed when it is broken."""
    meta = files.json_object(folder / "meta.json") if folder else None
    if folder is None or meta is None:
        return None
    with files.usable(folder, "delete that folder; `proj data` prepares it anew"):
        y, split = (np.load(folder / f"{name}.npy", allow_pickle=False) for name in ("y", "split"))
        group = _array(folder / "group.npy")
        x, letters, offset = (_array(folder / f"{name}.npy", mapped=True) for name in ("x", "text", "offset"))
        if offset is None or letters is None:
            letters = offset = None
        elif not (len(offset) == len(y) + 1 and offset[-1] == len(letters) and bool((np.diff(offset) >= 0).all())):
            raise ValueError("text.npy and offset.npy do not fit each other")
        lengths = [len(a) for a in (y, split, group, x) if a is not None]
        if len({*lengths}) != 1:
            raise ValueError(f"arrays of different lengths: {lengths}")
    return Prepared(meta, y, split, group, x, letters, offset)


def _array(path: Path, *, mapped: bool = False) -> Array | None:
    if not path.is_file():
        return None
    found: Array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    return found
