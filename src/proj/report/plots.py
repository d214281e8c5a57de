"""Charts as SVG inside the page, in the colours of its CSS variables: they follow light and dark mode.

Only matplotlib's object API is used: no pyplot, no global figure, no display.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from proj.report.measure import wilson

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from proj.answers import Calibration
    from proj.report.read import Array, Points

SCATTER_POINTS = 800  # a target; more would only weigh
# matplotlib cannot write `var(--ink)`: it gets colours that nothing else uses, replaced in its output.
INK, FAINT, FIRST, SECOND, BAD = "#010101", "#020202", "#030303", "#040404", "#050505"
_VARIABLES = {INK: "--muted", FAINT: "--line", FIRST: "--first", SECOND: "--second", BAD: "--bad"}


@dataclass(frozen=True)
class Line:
    label: str
    folds: list[Points]
    second: bool = False


def _draw(name: str, size_in: tuple[float, float], paint: Callable[[Axes], None]) -> str:
    """One chart as an `<svg>` element; `name` keeps its ids apart from those of other charts."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: Any = {
        "svg.fonttype": "none",  # text stays text: the page's own font, selectable
        "svg.hashsalt": name,  # the same run gives the same bytes
        "font.size": 8.5,
        "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
        "axes.edgecolor": FAINT, "xtick.major.size": 0, "ytick.major.size": 0, "xtick.major.pad": 5,
        "axes.grid": True, "axes.axisbelow": True, "grid.color": FAINT, "grid.linewidth": 0.6,
        "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False,
        "lines.linewidth": 1.6, "lines.solid_capstyle": "round", "legend.frameon": False,
    }  # fmt: skip
    with mpl.rc_context(style):
        figure = Figure(figsize=size_in, layout="constrained")
        paint(figure.add_subplot())
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # figure_1, axes_1, ...: the same in every chart, and nothing refers to them
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg


def curves(name: str, lines: list[Line], best: float | None) -> str:
    """Lines over epochs; `best` is marked on each."""

    def paint(ax: Axes) -> None:
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        for line in lines:
            colour = SECOND if line.second else FIRST
            for i, points in enumerate(line.folds):
                x, y = np.array(points, dtype=float).T
                y = np.where(np.isfinite(y), y, np.nan)
                faint = 1.0 if len(line.folds) == 1 else 0.55
                ax.plot(x, y, color=colour, alpha=faint, label=None if i else line.label,
                        linestyle=(0, (4, 1.5)) if line.second else "-", marker="o" if len(x) < 3 else None,
                        markersize=3.5)  # fmt: skip
                if best is not None and best in x:
                    ax.plot([best], y[x == best], "o", color=colour, markersize=5)
        if best is not None:
            ax.axvline(best, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        ax.yaxis.set_major_locator(MaxNLocator(nbins=5))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.4g}"))
        ax.grid(visible=False, axis="x")
        if len(lines) > 1:
            ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0, handlelength=1.8)

    return _draw(name, (3.5, 2.4), paint)


def confidence(c: Calibration) -> str:
    """How many answers came with which confidence, right and wrong, stacked."""

    def paint(ax: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        middle = [(b.low + b.high) / 2 for b in c.bins]
        right, wrong = [b.right for b in c.bins], [b.n - b.right for b in c.bins]
        ax.bar(middle, right, width=0.088, color=FIRST, label="right")
        ax.bar(middle, wrong, width=0.088, color=BAD, bottom=right, label="wrong")
        ax.set_xlabel("confidence")
        ax.set_ylabel("answers")
        ax.set_xlim(0, 1)
        ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        ax.grid(visible=False, axis="x")
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0, handlelength=0.9)

    return _draw("confidence", (3.5, 2.7), paint)


def reliability(c: Calibration) -> str:
    """How often answers of a confidence are right, with 95 % intervals, against the diagonal."""

    def paint(ax: Axes) -> None:
        full = [b for b in c.bins if b.n]
        x = np.array([b.confidence for b in full])
        y = np.array([b.right / b.n for b in full])
        low, high = np.array([wilson(b.right, b.n) for b in full]).T
        ax.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
        spread = np.stack([np.maximum(y - low, 0), np.maximum(high - y, 0)])
        ax.errorbar(x, y, yerr=spread, fmt="o", color=FIRST, markersize=4.5, elinewidth=1, capsize=0)
        ax.set_xlabel("confidence")
        ax.set_ylabel("share that is right")
        ax.set_xlim(0, 1.02)
        ax.set_ylim(0, 1.02)

    return _draw("reliability", (3.5, 2.7), paint)


def scatter(target: int, y: Array, pred: Array) -> str:
    """Said against true for one target, (N,) each; at most SCATTER_POINTS of them, evenly picked."""
    some = np.unique(np.linspace(0, len(y) - 1, min(len(y), SCATTER_POINTS)).astype(int))

    def paint(ax: Axes) -> None:
        ends = [float(min(y.min(), pred.min())), float(max(y.max(), pred.max()))]
        ax.plot(ends, ends, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
        ax.plot(y[some], pred[some], "o", color=FIRST, alpha=0.45, markersize=3, markeredgewidth=0)
        ax.set_xlabel("true")
        ax.set_ylabel("predicted")

    return _draw(f"scatter{target}", (3.2, 2.9), paint)
