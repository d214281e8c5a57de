"""Metrics of answers, by kind, from torchmetrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torchmetrics.functional import (
    mean_absolute_error,
    mean_squared_error,
    r2_score,
)
from torchmetrics.functional.classification import (
    binary_auroc,
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

if TYPE_CHECKING:
    from proj.data.store import Meta

Array = np.ndarray[Any, np.dtype[Any]]
Tensor = torch.Tensor


def content(said: Array, y: Array, meta: Meta, *, first: str = "") -> dict[str, Any]:
    """What metrics.json holds of answers; `metrics` begins with the one called `first`.

    Classes: `said` float32 (N, K) probabilities, `y` int64 (N,). Values: both float32 (N, T), in their units.
    """
    p, t = torch.from_numpy(np.ascontiguousarray(said)), torch.from_numpy(np.ascontiguousarray(y))
    made = _values(p, t, meta.names) if meta.kind == "values" else _classes(p, t, meta.names)
    metrics = made["metrics"]
    if first in metrics:
        made["metrics"] = {first: metrics.pop(first), **metrics}
    return made


def _classes(p: Tensor, t: Tensor, names: list[str]) -> dict[str, Any]:
    """Means over classes leave out those that are absent."""
    k = len(names)
    per = {
        "precision": multiclass_precision(p, t, k, average="none"),
        "recall": multiclass_recall(p, t, k, average="none"),
        "f1": multiclass_f1_score(p, t, k, average="none"),
    }
    support = torch.bincount(t, minlength=k)
    metrics = {
        "accuracy": float(multiclass_accuracy(p, t, k, average="micro")),
        "macro_f1": float(multiclass_f1_score(p, t, k, average="macro")),
        "balanced_accuracy": float(per["recall"][support > 0].mean()) if len(t) else 0.0,
        "log_loss": float(-p[torch.arange(len(t)), t].clamp_min(1e-12).log().mean()),
    }
    auroc = _auroc(p, t, support)
    if auroc is not None:
        metrics["auroc"] = auroc
    return {
        "metrics": metrics,
        "per_class": {
            n: {**{m: float(v[i]) for m, v in per.items()}, "support": int(support[i])} for i, n in enumerate(names)
        },
        "confusion": multiclass_confusion_matrix(p, t, k).tolist(),
    }


def _auroc(p: Tensor, t: Tensor, support: Tensor) -> float | None:
    """Mean over the classes of one against the rest; None where no class has both."""
    judged = [i for i, n in enumerate(support.tolist()) if 0 < n < len(t)]
    areas = [float(binary_auroc(p[:, i].double(), (t == i).long())) for i in judged]
    return sum(areas) / len(areas) if areas else None


def _values(p: Tensor, t: Tensor, names: list[str]) -> dict[str, Any]:
    """Per target MAE and RMSE in its unit, R², and MAE as a percentage of the mean (as Nutrition5k's paper reports)."""
    per = {}
    for i, name in enumerate(names):
        said, true = p[:, i].double(), t[:, i].double()
        mae, mean = float(mean_absolute_error(said, true)), float(true.mean())
        per[name] = {
            "mae": mae,
            "rmse": float(mean_squared_error(said, true, squared=False)),
            "r2": float(r2_score(said, true)) if len(true) > 1 and float(true.std()) > 0 else 0.0,
            "mae_percent": 100 * mae / abs(mean) if mean else 0.0,
            "mean": mean,
        }
    flat = {f"{n}_{m}": per[n][m] for m in ("mae", "rmse", "r2") for n in names}
    return {"metrics": flat, "per_target": per}
