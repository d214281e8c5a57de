"""How a report writes names and numbers."""

from __future__ import annotations

import math

LABELS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "f1": "F1",
    "auroc": "AUROC",
    "log_loss": "log loss",
    "ece": "calibration error",
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R²",
    "mae_percent": "MAE, % of the mean",
}
ENDS = ("mae_percent", "mae", "rmse", "r2")


def label(name: str) -> str:
    """A metric for a reader: "macro F1", "mass MAE"."""
    for end in ENDS:
        if name.endswith(f"_{end}"):
            return f"{name[: -len(end) - 1]} {LABELS[end]}"
    return LABELS.get(name, name.replace("_", " "))


def share(value: float) -> str:
    """A share for a reader: three decimals, more only where these would round a fault away."""
    if not math.isfinite(value):
        return "–"
    return f"{value:.3f}" if value == 1 or f"{value:.3f}" != "1.000" else f"{value:.5f}"


def number(value: float) -> str:
    """Four digits that matter, thousands whole."""
    if not math.isfinite(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def listed(names: list[str], limit: int = 5) -> str:
    """Quoted names in a sentence, the first few of many."""
    quoted = ", ".join(f"“{n}”" for n in names[:limit])
    return quoted if len(names) <= limit else f"{quoted} and {len(names) - limit} others"
