"""Scores of a trained network on the held-back rows, and what a report needs beside them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from proj import console, runs
from proj.answers import ece
from proj.train import baseline, calibrate, explain, scores
from proj.train.data import Batches, View

if TYPE_CHECKING:
    from proj.config import Config
    from proj.data.store import Meta
    from proj.task import Task
    from proj.train.net import Net

Array = np.ndarray[Any, np.dtype[Any]]
BATCH = 64
FEW = 24  # worst answers that are explained


@dataclass(frozen=True)
class Assessment:
    """`said` float32 (len(rows), K or T): probabilities, or values in their units. `content` is metrics.json's."""

    rows: Array
    said: Array
    content: dict[str, Any]


def raw(net: Net, view: View, rows: Array, features: Array | None = None) -> Array:
    """What the head says of `rows`, float32 (len(rows), K or T): logits, or standardised values.

    `features`: float32 (N, ...) of all prepared rows, from a frozen backbone that need not run again.
    """
    net.eval()
    parts = []
    batches = Batches(view.x if features is None else features, view.prepared.y, rows, BATCH)
    with torch.inference_mode(), console.progress(len(rows), "evaluate", "rows") as bar:
        for x, _ in batches:
            parts.append((net(x) if features is None else net.head(x)).float().numpy())
            bar.update(len(x))
    return np.concatenate(parts) if parts else np.zeros((0, view.outputs), np.float32)


def answers(net: Net, view: View, rows: Array, features: Array | None = None) -> Array:
    """As `raw`, brought to probabilities or units."""
    return _answered(net, raw(net, view, rows, features))


def _answered(net: Net, y: Array) -> Array:
    with torch.inference_mode():
        said: Array = net.answer(torch.from_numpy(y)).numpy()
    return said


def calibrated(net: Net, cfg: Config, view: View, features: Array | None = None) -> float:
    """Fit the temperature on the validation split and set it in `net`; 1 for values or `model.calibrate=false`."""
    t = 1.0
    if cfg.model.calibrate and not net.values:
        t = calibrate.temperature(raw(net, view, view.val, features), view.prepared.y[view.val])
    net.temperature.fill_(t)
    return t


def assess(
    net: Net, task: Task, cfg: Config, view: View, out: Path, *, fast: bool, features: Array | None = None
) -> Assessment:
    """Calibrate, answer the test split, score it beside the baselines, explain the worst; writes into the run `out`."""
    rows = view.test[:BATCH] if fast else view.test
    t = calibrated(net, cfg, view, features)
    y = raw(net, view, rows, features)
    said, truth, meta = _answered(net, y), view.prepared.y[rows], view.prepared.meta
    content = scores.content(said, truth, meta, first=task.metric)
    content["baselines"], simple = baseline.baselines(view.prepared, view.train, rows)
    if t != 1.0:
        before = torch.from_numpy(y).softmax(-1).numpy()
        content["calibration"] = {
            "temperature": t,
            "ece_before": ece(before, truth),
            "ece_after": ece(said, truth),
        }
    whole = write(out, view, rows, said, content, simple=simple)
    runs.write_json(out / "looks.json", explain.looks(net, view, rows, said, FEW))
    return Assessment(rows, said, whole)


def elsewhere(net: Net, task: Task, view: View, out: Path, *, fast: bool) -> dict[str, Any]:
    """Score another source's rows, and add that to the run's others.json."""
    rows = view.test[:BATCH] if fast else view.test
    meta = view.prepared.meta
    said = answers(net, view, rows)
    content = scores.content(said, view.prepared.y[rows], meta, first=task.metric)
    others = [o for o in runs.read_json(out / "others.json", []) if o["source"] != meta.source]
    entry = {
        "source": meta.source,
        "rows": len(rows),
        "unknown": meta.unknown,
        "metrics": content["metrics"],
        "date": datetime.now(UTC).date().isoformat(),
    }
    runs.write_json(out / "others.json", [*others, entry])
    return {**_head(meta, out), **content, "source": meta.source, "rows": len(rows), "unknown": meta.unknown}


def _head(meta: Meta, run: Path) -> dict[str, Any]:
    return {
        "task": meta.task,
        "run": run.name,
        "split": "test",
        "kind": meta.kind,
        "names": meta.names,
        "units": meta.units,
    }


def write(
    run: Path, view: View, rows: Array, said: Array, content: dict[str, Any], *, simple: Array | None = None
) -> dict[str, Any]:
    """Write predictions.npz and metrics.json into the run; returns the latter's content.

    `simple`: what the strongest baseline says of `rows`.
    """
    p = view.prepared
    saved = {"index": rows, "y": p.y[rows], "id": p.id[rows], ("pred" if p.meta.kind == "values" else "prob"): said}
    if simple is not None:
        saved["baseline"] = simple
    tmp = run / "predictions.tmp.npz"
    np.savez(tmp, **saved)  # type: ignore[arg-type]
    tmp.replace(run / "predictions.npz")
    whole = {**_head(p.meta, run), **content}
    runs.write_json(run / "metrics.json", whole)
    return whole
