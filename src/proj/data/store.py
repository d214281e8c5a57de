"""The prepared form of a data set on disk, and its reader.

data/prepared/<task>/<key>/
  x.npy       pictures: uint8 (N, H, W, C) or (N, views, H, W, C); series: float32 (N, steps, channels)
  text.npy    texts in its place: all of them, cleaned, as UTF-8 bytes, uint8 (total,)
  offset.npy  int64 (N + 1,): text i is bytes offset[i] to offset[i + 1]
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
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from proj.data import split as splits
from proj.errors import DataError

if TYPE_CHECKING:
    from proj.preprocess.spec import Modality
    from proj.task import Kind

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(kw_only=True)
class Meta:
    """`mean` and `std` are of the training split's channels; of pictures in 0..1, of texts empty.

    `target_mean` and `target_std` are of its values, in their units; of classes empty. `counts` is rows by split and
    class, of values by split and "". `unknown` counts rows of classes that were left out.
    """

    task: str
    title: str
    question: str
    key: str
    source: str
    sample: bool
    names: list[str]
    units: list[str]
    modality: Modality
    kind: Kind
    preprocess: dict[str, Any]
    data_hash: str
    manifest_hash: str
    mean: list[float]
    std: list[float]
    target_mean: list[float] = field(default_factory=list)
    target_std: list[float] = field(default_factory=list)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    skipped: list[dict[str, str]] = field(default_factory=list)
    unknown: dict[str, int] = field(default_factory=dict)


class Texts:
    """Texts on disk: `texts[3]` is a str, `texts[rows]` a list of them."""

    def __init__(self, raw: Array, offset: Array) -> None:
        self.raw, self.offset = raw, offset

    def __len__(self) -> int:
        return len(self.offset) - 1

    def _one(self, i: int) -> str:
        return bytes(self.raw[self.offset[i] : self.offset[i + 1]]).decode()

    @overload
    def __getitem__(self, i: int) -> str: ...

    @overload
    def __getitem__(self, i: Array) -> list[str]: ...

    def __getitem__(self, i: int | Array) -> str | list[str]:
        return [self._one(int(j)) for j in i] if isinstance(i, np.ndarray) else self._one(int(i))


@dataclass(frozen=True)
class Prepared:
    folder: Path
    meta: Meta
    x: Any  # Array, or Texts
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
        x = inputs(folder, meta.modality)
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


def inputs(folder: Path, modality: str) -> Any:
    """The inputs, which stay on disk: an array, or Texts."""
    if modality == "text":
        return Texts(_mapped(folder, "text"), _mapped(folder, "offset"))
    return _mapped(folder, "x")


def _mapped(folder: Path, name: str) -> Array:
    array: Array = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    return array


def write_meta(folder: Path, meta: Meta) -> None:
    (folder / "meta.json").write_text(json.dumps(asdict(meta), indent=1) + "\n", encoding="utf-8")
