"""Scores of a trained network on the held-back rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

from proj import console, runs
from proj.data.store import Prepared
from proj.train.data import Batches
from proj.train.net import Net

Array = np.ndarray[Any, np.dtype[Any]]
BATCH = 64


def probabilities(net: Net, prepared: Prepared, rows: Array, features: Array | None = None) -> Array:
    """float32 (len(rows), K), in the order of `rows`.

    `features`: float32 (N, F) of all prepared rows, from a frozen backbone that need not run again.
    """
    net.eval()
    parts = []
    batches = Batches(prepared.x if features is None else features, prepared.y, rows, BATCH)
    with torch.inference_mode(), console.progress(len(rows), "evaluate", "rows") as bar:
        for x, _ in batches:
            logits = net(x) if features is None else net.head(x)
            parts.append(logits.softmax(-1).numpy())
            bar.update(len(x))
    return np.concatenate(parts) if parts else np.zeros((0, len(prepared.meta.names)), np.float32)


def scores(prob: Array, y: Array, names: list[str]) -> dict[str, Any]:
    """What metrics.json holds. `prob`: float32 (N, K); `y`: int64 (N,). Means over classes leave out absent ones."""
    p, t, k = torch.from_numpy(prob), torch.from_numpy(y), len(names)
    per = {
        "precision": multiclass_precision(p, t, k, average="none"),
        "recall": multiclass_recall(p, t, k, average="none"),
        "f1": multiclass_f1_score(p, t, k, average="none"),
    }
    support = torch.bincount(t, minlength=k)
    per_class = {
        n: {**{m: float(v[i]) for m, v in per.items()}, "support": int(support[i])} for i, n in enumerate(names)
    }
    metrics = {
        "accuracy": float(multiclass_accuracy(p, t, k, average="micro")),
        "macro_f1": float(multiclass_f1_score(p, t, k, average="macro")),
        "log_loss": float(-p[torch.arange(len(t)), t].clamp_min(1e-12).log().mean()),
    }
    return {
        "metrics": metrics,
        "per_class": per_class,
        "confusion": multiclass_confusion_matrix(p, t, k).tolist(),
    }


def baseline(y_train: Array, y_test: Array, k: int) -> dict[str, Any]:
    """Always the training split's most frequent class."""
    common = int(np.bincount(y_train, minlength=k).argmax())
    return {"name": "most frequent class", "metrics": {"accuracy": float((y_test == common).mean())}}


def write(run: Path, prepared: Prepared, rows: Array, prob: Array, content: dict[str, Any]) -> dict[str, Any]:
    """Write predictions.npz and metrics.json into the run; returns the latter's content."""
    tmp = run / "predictions.tmp.npz"
    np.savez(tmp, index=rows, y=prepared.y[rows], prob=prob, id=prepared.id[rows])
    tmp.replace(run / "predictions.npz")
    whole = {
        "task": prepared.meta.task,
        "run": run.name,
        "split": "test",
        "kind": prepared.meta.kind,
        "names": prepared.meta.names,
        **content,
    }
    runs.write_json(run / "metrics.json", whole)
    return whole
