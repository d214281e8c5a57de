"""What a run report is made of: the files of a run and of its prepared data, read and checked.

A file that is missing is None (the report says so); one that is there and cannot be used raises CheckFailed.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np

from proj import runs
from proj.errors import CheckFailed
from proj.runs import Record

Array = np.ndarray[Any, np.dtype[Any]]
Points = list[tuple[float, float]]  # (epoch, value), by epoch
History = dict[str, dict[int, Points]]  # column → fold (0 where there are none) → points


@dataclass(frozen=True, kw_only=True)
class Scores:
    """metrics.json. `confusion` is int64 (K, K), rows true and columns predicted, or None."""

    kind: Literal["classes", "values"] = "classes"
    split: str = "test"
    names: list[str] = field(default_factory=list)
    units: list[str] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)
    per_target: dict[str, dict[str, float]] = field(default_factory=dict)
    confusion: Array | None = None
    baseline: dict[str, Any] = field(default_factory=dict)
    best_epoch: int | None = None
    folds: list[dict[str, Any]] = field(default_factory=list)
    mean: dict[str, float] = field(default_factory=dict)
    std: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Predictions:
    """predictions.npz. `index` int64 (N,), rows of the prepared arrays; `id` str (N,).

    Classes: `y` int64 (N,), `said` the probabilities, float (N, K). Values: `y` and `said` float (N, T).
    """

    index: Array
    y: Array
    said: Array
    id: Array


@dataclass(frozen=True)
class Prepared:
    """The prepared folder. `x` uint8 (N, H, W, C), memory-mapped; `split` 0 train, 1 val, 2 test."""

    meta: dict[str, Any]
    y: Array
    split: Array
    group: Array | None
    x: Array | None


@dataclass(frozen=True)
class Material:
    """All that a report is made of. `question` and `title` are the task's, empty when no file says them."""

    run: Path
    record: Record
    config: str
    history: History
    scores: Scores | None
    predictions: Predictions | None
    prepared: Prepared | None
    question: str
    title: str

    @property
    def names(self) -> list[str]:
        found = (self.scores and self.scores.names) or (self.prepared and self.prepared.meta.get("names")) or []
        return [str(n) for n in found]


def material(run: Path, prepared: Path | None) -> Material:
    """Read everything. Raises RunNotFound when `run` is no run directory, CheckFailed for a broken file."""
    record = runs.read(run)
    scores = _scores(run / "metrics.json")
    predictions = _predictions(run / "predictions.npz", scores)
    data = _prepared(prepared)
    if predictions is not None and data is not None:
        _match(predictions, data, run)
    said = [_json(path) or {} for path in (run / "metrics.json", run / "bundle" / "bundle.json")]
    return Material(
        run=run,
        record=record,
        config=_text(run / "config.yaml"),
        history=_histories(run),
        scores=scores,
        predictions=predictions,
        prepared=data,
        question=next((str(s["question"]) for s in said if s.get("question")), ""),
        title=next((str(s["title"]) for s in said if s.get("title")), ""),
    )


@contextmanager
def _usable(path: Path, next: str = "`proj evaluate RUN` writes it anew") -> Iterator[None]:
    """Turn whatever a broken file makes its reader raise into CheckFailed."""
    try:
        yield
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        EOFError,
        BadZipFile,
        RecursionError,
    ) as e:
        found = f"it has no {e}" if isinstance(e, KeyError) else str(e) or type(e).__name__
        raise CheckFailed(f"{path} is broken: no report can be made of it", found=found, next=next) from None


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    with _usable(path):
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"a JSON {type(content).__name__} where an object was expected")
    return content


def _numbers(raw: Any) -> dict[str, float]:
    """The numbers of a JSON object; null becomes NaN, anything else (names, lists) is left out."""
    kept = {k: v for k, v in dict(raw or {}).items() if v is None or isinstance(v, int | float)}
    return {str(k): math.nan if v is None else float(v) for k, v in kept.items()}


def _scores(path: Path) -> Scores | None:
    raw = _json(path)
    if raw is None:
        return None
    with _usable(path):
        names = [str(n) for n in raw.get("names") or []]
        kind = raw.get("kind", "classes")
        if kind not in ("classes", "values"):
            raise ValueError(f"kind {kind!r}; it is classes or values")
        confusion = np.asarray(raw["confusion"], dtype=np.int64) if raw.get("confusion") else None
        if confusion is not None and confusion.shape != (len(names), len(names)):
            raise ValueError(f"a confusion matrix of shape {confusion.shape} for {len(names)} names")
        best = raw.get("best_epoch")
        return Scores(
            kind=kind,
            split=str(raw.get("split", "test")),
            names=names,
            units=[str(u) for u in raw.get("units") or []],
            metrics=_numbers(raw.get("metrics")),
            per_class={str(k): _numbers(v) for k, v in (raw.get("per_class") or {}).items()},
            per_target={str(k): _numbers(v) for k, v in (raw.get("per_target") or {}).items()},
            confusion=confusion,
            baseline=dict(raw.get("baseline") or {}),
            best_epoch=None if best is None else int(best),
            folds=[dict(f) for f in raw.get("folds") or []],
            mean=_numbers(raw.get("mean")),
            std=_numbers(raw.get("std")),
        )


def _histories(run: Path) -> History:
    """metrics.csv, or in a cross-validation those of its folds, folds/<i>/metrics.csv."""
    folds = {int(p.parent.name): p for p in run.glob("folds/*/metrics.csv") if p.parent.name.isdecimal()}
    history: History = {}
    for fold, path in sorted(folds.items()) or [(0, run / "metrics.csv")]:
        for column, points in _columns(path).items():
            history.setdefault(column, {})[fold] = points
    return history


def _columns(path: Path) -> dict[str, Points]:
    """Columns of a metrics.csv. Empty cells are left out, as are those of a last line that was cut off."""
    columns: dict[str, Points] = {}
    if not path.is_file():
        return columns
    again = "delete it for a report without learning curves"
    with _usable(path, again), path.open(encoding="utf-8", newline="") as f:
        rows = csv.DictReader(f)
        if "epoch" not in (rows.fieldnames or []):
            raise ValueError(f"no column epoch among {', '.join(rows.fieldnames or []) or 'none'}")
        for row in rows:
            for name, cell in row.items():
                if not cell or not row["epoch"] or name is None or name == "epoch":
                    continue
                try:
                    columns.setdefault(name, []).append((float(row["epoch"]), float(cell)))
                except ValueError:
                    raise ValueError(f"line {rows.line_num}: {name} is {cell!r}") from None
    return columns


def _predictions(path: Path, scores: Scores | None) -> Predictions | None:
    if not path.is_file():
        return None
    with _usable(path), path.open("rb") as f, np.load(f, allow_pickle=False) as saved:
        said = saved["prob"] if "prob" in saved else saved["pred"]
        y, index = saved["y"], saved["index"]
        ids = saved["id"] if "id" in saved else index.astype(str)
        n = len(y)
        if said.ndim != 2 or {len(said), len(index), len(ids)} != {n}:
            raise ValueError(f"arrays of different lengths: y {y.shape}, answers {said.shape}, index {index.shape}")
        if "prob" in saved and n and not (y.min() >= 0 and y.max() < said.shape[1]):
            raise ValueError(f"class {int(y.max())} among {said.shape[1]} probabilities")
        if scores and scores.names and said.shape[1] != len(scores.names):
            raise ValueError(f"{said.shape[1]} answers an item, metrics.json has {len(scores.names)} names")
    return Predictions(index, y, said, ids)


def _prepared(folder: Path | None) -> Prepared | None:
    meta = _json(folder / "meta.json") if folder else None
    if folder is None or meta is None:
        return None
    again = "delete that folder; `proj data` prepares it anew"
    with _usable(folder, again):
        y, split = (np.load(folder / f"{name}.npy", allow_pickle=False) for name in ("y", "split"))
        path = folder / "x.npy"
        x = np.load(path, mmap_mode="r", allow_pickle=False) if path.is_file() else None
        named = folder / "group.npy"
        group = np.load(named, allow_pickle=False) if named.is_file() else None
        lengths = [len(a) for a in (y, split, group, x) if a is not None]
        if len({*lengths}) != 1:
            raise ValueError(f"arrays of different lengths: {lengths}")
    return Prepared(meta, y, split, group, x)


def _match(predictions: Predictions, data: Prepared, run: Path) -> None:
    """Pictures of other data under these answers would be worse than none."""
    index, y = predictions.index, predictions.y
    fits = len(index) == 0 or bool(index.min() >= 0 and index.max() < len(data.y))
    if fits and np.issubdtype(y.dtype, np.integer) and data.y.ndim == 1:
        fits = bool((data.y[index] == y).all())
    if not fits:
        raise CheckFailed(
            f"{run}'s predictions were not made on these prepared data",
            found=f"rows or labels differ ({len(data.y):,} rows prepared)",
            next="`proj evaluate RUN` makes both agree",
        )
