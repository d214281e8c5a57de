"""The prepared form of a data set on disk, and its reader.

data/prepared/<task>/<key>/
  x.npy       uint8 (N, H, W, C)
  y.npy       int64 (N,) class index, or float32 (N, targets) in their units
  split.npy   uint8 (N,): 0 train, 1 val, 2 test
  group.npy   str (N,)
  id.npy      str (N,)
  meta.json   `Meta`
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from proj.data import split as splits
from proj.errors import DataError

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(kw_only=True)
class Meta:
    """`mean` and `std` are of the training split's channels, in 0..1. `counts` is rows by split and class."""

    task: str
    title: str
    question: str
    key: str
    source: str
    sample: bool
    names: list[str]
    units: list[str]
    modality: str
    kind: str
    preprocess: dict[str, Any]
    data_hash: str
    manifest_hash: str
    mean: list[float]
    std: list[float]
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    skipped: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Prepared:
    folder: Path
    meta: Meta
    x: Array
    y: Array
    split: Array
    group: Array
    id: Array

    def rows(self, name: str) -> Array:
        """Indices of a split's rows, int64, in order."""
        return np.flatnonzero(self.split == splits.NAMES.index(name))


def open_(folder: Path) -> Prepared:
    """Open a prepared folder; x stays on disk. Raises DataError when it is not whole."""
    try:
        raw = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        meta = Meta(**{f.name: raw[f.name] for f in fields(Meta)})
        parts = {n: np.load(folder / f"{n}.npy", allow_pickle=False) for n in ("y", "split", "group", "id")}
        x = np.load(folder / "x.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError, KeyError, TypeError) as e:
        raise DataError(
            f"{folder} is not a prepared data set", found=str(e), next=f"delete {folder}; `proj data`"
        ) from None
    if any(len(p) != len(x) for p in parts.values()):
        raise DataError(
            f"{folder} is not whole",
            found="arrays of different lengths",
            next=f"delete {folder}; `proj data`",
        )
    return Prepared(folder, meta, x, **parts)


def write_meta(folder: Path, meta: Meta) -> None:
    (folder / "meta.json").write_text(json.dumps(asdict(meta), indent=1) + "\n", encoding="utf-8")
