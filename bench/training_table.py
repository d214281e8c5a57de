"""Ratios of alternating pairs against their bars, as a table."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

Side = TypeVar("Side")


@dataclass
class Line:
    """One bar: in each pair what was measured of ours and of theirs, and what their ratio is to be.

    `least`: the ratio is to be at least `bar`, else at most. `missing`: why nothing was measured.
    """

    what: str
    against: str
    bar: float
    unit: str
    least: bool = True
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    missing: str = ""

    def add(self, ours: float, theirs: float) -> None:
        self.ours.append(ours)
        self.theirs.append(theirs)

    @property
    def ratios(self) -> list[float]:
        """Ours over theirs where more is better, theirs over ours for seconds that are to be fewer times as many."""
        pairs = zip(self.ours, self.theirs, strict=True)
        return [t / o if self.unit == "s" and self.least else o / t for o, t in pairs]

    @property
    def median(self) -> float:
        return statistics.median(self.ratios)

    @property
    def holds(self) -> bool | None:
        """None where nothing was measured."""
        if not self.ours:
            return None
        return self.median >= self.bar if self.least else self.median <= self.bar

    def content(self) -> dict[str, Any]:
        measured = {"ratios": self.ratios, "median": self.median} if self.ours else {}
        return {**asdict(self), **measured, "holds": self.holds}


def order(sides: list[Side], i: int) -> list[Side]:
    """Of round `i`: there and back, so that a machine that grows slower or faster wrongs no side."""
    return sides if i % 2 == 0 else sides[::-1]


def table(lines: list[Line]) -> list[str]:
    """A row a bar: medians of both sides, the ratio's median and range, and whether it holds."""
    rows = [["what", "against", "ours", "theirs", "unit", "ratio", "from..to", "bar", ""]]
    for x in lines:
        sign = "≥" if x.least else "≤"
        bar = f"{sign} {x.bar:g}"
        if not x.ours:
            rows.append([x.what, x.against, "", "", "", "", "", bar, x.missing or "not measured"])
            continue
        low, high = min(x.ratios), max(x.ratios)
        figures = [_figure(statistics.median(x.ours)), _figure(statistics.median(x.theirs)), x.unit]
        ratio = [_ratio(x.median), f"{_ratio(low)}..{_ratio(high)}"]
        rows.append([x.what, x.against, *figures, *ratio, bar, "holds" if x.holds else "MISSED"])
    return aligned(rows)


def aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _ratio(value: float) -> str:
    return f"{value:.4f}" if value < 0.1 else f"{value:.2f}"
