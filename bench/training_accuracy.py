"""Is a faster training as good? Test accuracy of both sides over several seeds, side by side."""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

STANDARD_ERRORS = 2.0


@dataclass
class Equal:
    """Accuracies (0..1) of one split, a seed each, of ours and theirs. `rows`: of the test split."""

    what: str
    against: str
    rows: int
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    missing: str = ""

    @property
    def gap(self) -> float:
        """How much better ours are, on average."""
        return statistics.mean(self.ours) - statistics.mean(self.theirs)

    @property
    def noise(self) -> float:
        """Of the gap: two standard errors over seeds, and never less than one row of the test split."""
        squares = sum(statistics.variance(x) / len(x) for x in (self.ours, self.theirs) if len(x) > 1)
        return max(STANDARD_ERRORS * math.sqrt(squares), 1 / self.rows)

    @property
    def holds(self) -> bool | None:
        """Ours are not worse by more than the noise; None where nothing was measured, or one seed only."""
        return self.gap >= -self.noise if min(len(self.ours), len(self.theirs)) > 1 else None

    def content(self) -> dict[str, Any]:
        measured = {"gap": self.gap, "noise": self.noise} if self.ours and self.theirs else {}
        return {**asdict(self), **measured, "holds": self.holds}


def lines(found: list[Equal]) -> list[list[str]]:
    """A table's rows."""
    rows = [["test accuracy", "against", "ours", "theirs", "gap", "noise", ""]]
    for x in found:
        if not (x.ours and x.theirs):
            rows.append([x.what, x.against, "", "", "", "", x.missing or "not measured"])
            continue
        verdict = {True: "as good or better", False: "WORSE", None: "one seed tells nothing"}[x.holds]
        figures = [_spread(x.ours), _spread(x.theirs), f"{x.gap:+.4f}", f"{x.noise:.4f}"]
        rows.append([x.what, x.against, *figures, verdict])
    return rows


def _spread(values: list[float]) -> str:
    """Mean ± standard deviation (lowest to highest)."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.4f} ± {spread:.4f} ({min(values):.3f} to {max(values):.3f})"
