"""What a run report is made of: the files of a run and of its prepared data, read and checked.

A file that is missing is None (the report says so); one that is there and cannot be used raises CheckFailed.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from proj import runs
from proj.errors import CheckFailed
from proj.report import files
from proj.report import prepared as prepared_folder

if TYPE_CHECKING:
    from proj.report.prepared import Prepared as Prepared
    from proj.runs import Record

Array = np.ndarray[Any, np.dtype[Any]]
Points = list[tuple[float, float]]  # (epoch, value), by epoch
History = dict[str, dict[int, Points]]  # column → fold (0 where there are none) → points


@dataclass(frozen=True)
class Baseline:
    name: str
    metrics: dict[str, float]


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
    baselines: list[Baseline] = field(default_factory=list)
    calibration: dict[str, float] = field(default_factory=dict)
    best_epoch: int | None = None
    folds: list[dict[str, Any]] = field(default_factory=list)
    mean: dict[str, float] = field(default_factory=dict)
    std: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Predictions:
    """predictions.npz. `index` int64 (N,), rows of the prepared arrays; `id` str (N,).

    Classes: `y` int64 (N,), `said` the probabilities, float (N, K). Values: `y` and `said` float (N, T).
    `baseline`: what the strongest baseline says of the same rows, classes (N,) or values (N, T), where it is kept.
    """

    index: Array
    y: Array
    said: Array
    id: Array
    baseline: Array | None = None


@dataclass(frozen=True)
class Look:
    """What weighed in one answer: `heat` float (h, w), (views, h, w) or (steps, channels), 0..1; or a text's spans.

    `spans` are (start, end, weight) in `text`, weight -1..1: over 0 what spoke for the answer.
    """

    heat: Array | None = None
    text: str = ""
    spans: tuple[tuple[int, int, float], ...] = ()


@dataclass(frozen=True)
class Other:
    """A score on another source. `unknown`: rows of classes that the model does not know, left out of `rows`."""

    source: str
    rows: int
    unknown: dict[str, int]
    metrics: dict[str, float]
    date: str


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
    looks: dict[int, Look] = field(default_factory=dict)
    others: list[Other] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        found = (self.scores and self.scores.names) or (self.prepared and self.prepared.meta.get("names")) or []
        return [str(n) for n in found]


def material(run: Path, prepared: Path | None) -> Material:
    """Read everything. Raises RunNotFound when `run` is no run directory, CheckFailed for a broken file."""
    record = runs.read(run)
    scores = _scores(run / "metrics.json")
    predictions = _predictions(run / "predictions.npz", scores)
    data = prepared_folder.read(prepared)
    if predictions is not None and data is not None:
        _match(predictions, data, run)
    said = [files.json_object(path) or {} for path in (run / "metrics.json", run / "bundle" / "bundle.json")]
    return Material(
        run=run,
        record=record,
        config=files.text(run / "config.yaml"),
        history=_histories(run),
        scores=scores,
        predictions=predictions,
        prepared=data,
        question=next((str(s["question"]) for s in said if s.get("question")), ""),
        title=next((str(s["title"]) for s in said if s.get("title")), ""),
        looks=_looks(run / "looks.json"),
        others=_others(run / "others.json"),
    )


def _scores(path: Path) -> Scores | None:
    raw = files.json_object(path)
    if raw is None:
        return None
    with files.usable(path):
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
            metrics=files.numbers(raw.get("metrics")),
            per_class={str(k): files.numbers(v) for k, v in (raw.get("per_class") or {}).items()},
            per_target={str(k): files.numbers(v) for k, v in (raw.get("per_target") or {}).items()},
            confusion=confusion,
            baselines=_baselines(raw),
            calibration=files.numbers(raw.get("calibration")),
            best_epoch=None if best is None else int(best),
            folds=[dict(f) for f in raw.get("folds") or []],
            mean=files.numbers(raw.get("mean")),
            std=files.numbers(raw.get("std")),
        )


def _baselines(raw: dict[str, Any]) -> list[Baseline]:
    """A list, or of runs made before there were several `baseline`, one."""
    found = raw.get("baselines") or ([raw["baseline"]] if raw.get("baseline") else [])
    return [Baseline(str(b.get("name", "baseline")), files.numbers(b.get("metrics"))) for b in found]


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
    with files.usable(path, again), path.open(encoding="utf-8", newline="") as f:
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
    with files.usable(path), path.open("rb") as f, np.load(f, allow_pickle=False) as saved:
        said = saved["prob"] if "prob" in saved else saved["pred"]
        y, index = saved["y"], saved["index"]
        ids = saved["id"] if "id" in saved else index.astype(str)
        simple = saved.get("baseline")
        n = len(y)
        if said.ndim != 2 or {len(said), len(index), len(ids)} != {n}:
            raise ValueError(f"arrays of different lengths: y {y.shape}, answers {said.shape}, index {index.shape}")
        if "prob" in saved and n and not (y.min() >= 0 and y.max() < said.shape[1]):
            raise ValueError(f"class {int(y.max())} among {said.shape[1]} probabilities")
        if scores and scores.names and said.shape[1] != len(scores.names):
            raise ValueError(f"{said.shape[1]} answers an item, metrics.json has {len(scores.names)} names")
        if simple is not None and simple.shape != y.shape:
            raise ValueError(f"a baseline's answers of shape {simple.shape} to {y.shape}")
    return Predictions(index, y, said, ids, simple)


def _looks(path: Path) -> dict[int, Look]:
    found = {}
    again = "delete it for a report without what the model looked at"
    with files.usable(path, again):
        for raw in files.json_list(path, again):
            heat = np.asarray(raw["heat"], np.float32) if raw.get("heat") is not None else None
            if heat is not None and not (heat.ndim in (2, 3) and heat.size and bool(np.isfinite(heat).all())):
                raise ValueError(f"a heat of shape {heat.shape}, or with what is no number")
            spans = tuple((int(a), int(b), float(w)) for a, b, w in raw.get("spans") or [])
            found[int(raw["index"])] = Look(heat, str(raw.get("text", "")), spans)
    return found


def _others(path: Path) -> list[Other]:
    again = "delete it for a report without scores on other sources"
    with files.usable(path, again):
        return [
            Other(
                str(raw["source"]),
                int(raw["rows"]),
                {str(k): int(n) for k, n in (raw.get("unknown") or {}).items()},
                files.numbers(raw.get("metrics")),
                str(raw.get("date", "")),
            )
            for raw in files.json_list(path, again)
        ]


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
