"""Results of a task with values: each target in its own unit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from proj.report import measure, plots
from proj.report.words import LABELS, number

if TYPE_CHECKING:
    from proj.report.measure import Intervals
    from proj.report.read import Material

LARGE = 3  # targets in large type
KNOWN = ("mae", "mae_percent", "rmse", "r2", "bias", "mean")  # columns, in this order


def figures(m: Material) -> dict[str, dict[str, float]]:
    """Each target's figures, as metrics.json has them or worked out from the predictions; % of the mean added."""
    s, p = m.scores, m.predictions
    assert s is not None
    each = s.per_target or (measure.per_target(p.said, p.y, s.names) if p is not None and len(p.y) else {})
    return {name: _with_percent(f) for name, f in each.items()}


def _with_percent(f: dict[str, float]) -> dict[str, float]:
    mean = f.get("mean", 0.0)
    return f if "mae_percent" in f or "mae" not in f or not mean else {**f, "mae_percent": 100 * f["mae"] / abs(mean)}


def target_headlines(m: Material, found: Intervals) -> list[tuple[str, str, float, str, list[str]]]:
    """Of the first targets: (label, metric's name, MAE, unit, notes)."""
    s = m.scores
    assert s is not None
    units = dict(zip(s.names, s.units, strict=False))
    made = []
    for name, f in [*figures(m).items()][:LARGE]:
        key = f"{name}_mae"
        value = s.mean.get(key, f.get("mae", math.nan)) if s.folds else f.get("mae", math.nan)
        notes = []
        if "mae_percent" in f:
            notes.append(f"{f['mae_percent']:.0f} % of the mean")
        if key in found.ranges:
            low, high = found.ranges[key]
            notes.append(f"95 % interval {number(low)} to {number(high)}")
        made.append((f"{name}, mean absolute error", key, value, units.get(name, ""), notes))
    return made


def target_table(m: Material, found: Intervals) -> dict[str, Any] | None:
    """A row a target: its errors, their interval, and beside them each baseline's and the gain over the strongest."""
    s = m.scores
    assert s is not None
    each, units = figures(m), dict(zip(s.names, s.units, strict=False))
    there = {c for f in each.values() for c in f}
    columns = [*(c for c in KNOWN if c in there), *sorted(there - {*KNOWN})]
    beside = [b for b in s.baselines if any(f"{name}_mae" in b.metrics for name in each)]
    over = next(iter(found.gains.values())).over if found.gains else ""
    heads = [LABELS.get(c, c) for c in columns]
    if found.ranges:
        heads.insert(1, "MAE, 95 % interval")
    heads += [f"MAE of {b.name}" for b in beside] + ([f"gain over {over}"] if over else [])
    rows = []
    for name, f in each.items():
        key = f"{name}_mae"
        cells = [_cell(f.get(c), "%" if c == "mae_percent" else "") for c in columns]
        if found.ranges:
            cells.insert(1, _range(found.ranges.get(key)))
        cells += [_cell(b.metrics.get(key)) for b in beside]
        if over:
            g = found.gains.get(key)
            cells.append(f"{number(g.value)} ({number(g.low)} to {number(g.high)})" if g else "–")
        rows.append({"name": name, "unit": units.get(name, ""), "cells": cells})
    return {"columns": heads, "rows": rows, "short": []} if rows else None


def _cell(value: float | None, unit: str = "") -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.1f} %" if unit == "%" else number(value)


def _range(ends: tuple[float, float] | None) -> str:
    return f"{number(ends[0])} to {number(ends[1])}" if ends else "–"


def scatters(m: Material) -> list[dict[str, str]]:
    """True against said, a chart a target."""
    s, p = m.scores, m.predictions
    if s is None or p is None or s.kind != "values" or not len(p.y):
        return []
    units = s.units or [""] * len(s.names)
    return [
        {"name": name, "unit": unit, "svg": plots.scatter(t, p.y[:, t], p.said[:, t])}
        for t, (name, unit) in enumerate(zip(s.names, units, strict=False))
    ]
