"""A run's scores as the lines that a terminal shows."""

from __future__ import annotations

from typing import Any

from proj import console

COLUMNS = 3  # metrics of each fold that fit beside each other


def lines(content: dict[str, Any]) -> list[str]:
    """A row for each fold, class or target."""
    if "folds" in content:
        return _folds(content["folds"])
    if content["kind"] == "values":
        return _targets(content)
    return console.table(
        ["class", "precision", "recall", "f1", "rows"],
        [
            [n, *(f"{p[k]:.3f}" for k in ("precision", "recall", "f1")), str(p["support"])]
            for n, p in content["per_class"].items()
        ],
    )


def _folds(folds: list[dict[str, Any]]) -> list[str]:
    shown = list(folds[0]["metrics"])[:COLUMNS]
    return console.table(
        ["fold", *shown, "rows"],
        [[str(f["fold"]), *(f"{f['metrics'].get(m, float('nan')):.4g}" for m in shown), str(f["rows"])] for f in folds],
    )


def _targets(content: dict[str, Any]) -> list[str]:
    units = dict(zip(content["names"], content["units"], strict=True))
    return console.table(
        ["target", "MAE", "RMSE", "R²", "MAE of the mean", "mean"],
        [
            [
                n,
                f"{p['mae']:.4g} {units[n]}",
                f"{p['rmse']:.4g} {units[n]}",
                f"{p['r2']:.3f}",
                f"{p['mae_percent']:.1f} %",
                f"{p['mean']:.4g} {units[n]}",
            ]
            for n, p in content["per_target"].items()
        ],
    )


def figures(content: dict[str, Any]) -> list[tuple[str, str]]:
    """The metrics, each in a line, and the strongest baseline's first one."""
    if "folds" in content:
        made = [(m, f"{v:.4g} ± {content['std'][m]:.2g}") for m, v in content["mean"].items()]
    elif content["kind"] == "values":
        made = []  # the table has them
    else:
        made = [(m, f"{v:.4f}") for m, v in content["metrics"].items()]
    return made + _baselines(content)


def _baselines(content: dict[str, Any]) -> list[tuple[str, str]]:
    """Each baseline's score in the first metric, to hold the model's against."""
    first = next(iter(content["metrics"]))
    return [
        ("baseline" if i == 0 else "", f"{b['metrics'][first]:.4g} {b['name']} ({first})")
        for i, b in enumerate(content.get("baselines", []))
        if first in b["metrics"]
    ]
