"""The confusion matrix as cells to draw: the template `matrix.svg` only places them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proj.report.read import Array

LARGEST = 50  # classes; beyond that a matrix cannot be read, and only the top confusions are listed
WITH_SHARES = 12  # classes up to which each cell has room for its share of the row
LABEL_CHARS = 18


@dataclass(frozen=True)
class Cell:
    """A filled square at (x, y), px. `shade` 0..1 is its colour's strength; `hint` is what hovering says."""

    x: float
    y: float
    right: bool
    shade: float
    count: str
    share: str
    hint: str


@dataclass(frozen=True)
class Matrix:
    width: float
    height: float
    side: float
    left: float
    top: float
    font: float
    upright: bool
    labels: list[str]
    cells: list[Cell]


def matrix(confusion: Array, names: list[str]) -> Matrix | None:
    """Rows are what items are, columns what the model said. None above LARGEST classes."""
    k = len(names)
    if k > LARGEST:
        return None
    side = 46.0 if k <= WITH_SHARES else 32.0 if k <= 24 else 19.0
    font = 12.0 if side > 20 else 10.0
    labels = [n if len(n) <= LABEL_CHARS else n[: LABEL_CHARS - 1] + "…" for n in names]
    longest = max(map(len, labels)) * font * 0.62  # px, by the mean width of a letter
    upright = longest <= side - 2  # else the column labels are turned by 90°
    left, top = longest + 14, 22.0 if upright else longest + 12
    cells = [
        _cell(
            int(confusion[i, j]),
            int(confusion[i].sum()),
            left + j * side,
            top + i * side,
            names[i],
            names[j],
            i == j,
            k,
        )
        for i in range(k)
        for j in range(k)
        if confusion[i, j]
    ]
    return Matrix(left + k * side + 2, top + k * side + 2, side, left, top, font, upright, labels, cells)


def _cell(n: int, of: int, x: float, y: float, true: str, said: str, right: bool, k: int) -> Cell:
    share = n / of
    # Mistakes are rare, so their shade runs faster: a tenth of a row must be seen at a glance.
    shade = share if right else min(1.0, 0.12 + 1.8 * share)
    text = f"{100 * share:.0f} %" if k <= WITH_SHARES else ""
    count = str(n) if n < 10_000 else f"{n / 1000:.0f}k"
    hint = f"{true}: {n} of {of} ({100 * share:.1f} %) " + ("recognised" if right else f"taken for {said}")
    return Cell(x, y, right, round(max(shade, 0.06), 3), count, text, hint)
