"""Inputs to click on the page, from the held-back rows."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np

from proj.bundle import Sample
from proj.preprocess.spec import TextSpec

if TYPE_CHECKING:
    from proj.task import Task
    from proj.train.data import View

Array = np.ndarray[Any, np.dtype[Any]]
MOST = 6
LONGEST = 6_000  # letters of a text


def pick(view: View, rows: Array, task: Task) -> tuple[Sample, ...]:
    """Up to six of `rows`, of as many classes as there are; none where one draws."""
    if task.page_input == "sketch":
        return ()
    p = view.prepared
    return tuple(Sample(name=str(p.id[i]), body=_body(view, int(i))) for i in _spread(p.y, rows))


def _spread(y: Array, rows: Array) -> list[int]:
    """Rows of each class in turn; of values evenly from the smallest to the largest of the first."""
    if y.ndim == 2:
        order = rows[np.argsort(y[rows, 0], kind="stable")]
        at = np.unique(np.linspace(0, len(order) - 1, min(MOST, len(order))).astype(int))
        return [int(order[i]) for i in at]
    turn: dict[int, int] = {}
    keyed = []
    for i in rows.tolist():
        k = int(y[i])
        turn[k] = turn.get(k, -1) + 1
        keyed.append((turn[k], k, i))
    return [i for _, _, i in sorted(keyed)[:MOST]]


def _body(view: View, i: int) -> dict[str, Any]:
    """What `POST /predict` takes as JSON."""
    if isinstance(view.spec, TextSpec):
        return {view.spec.fields[-1]: view.prepared.x[i][:LONGEST]}
    x = np.asarray(view.prepared.x[i])
    if view.modality == "series":
        return {"series": [[float(f"{v:.7g}") for v in step] for step in x.tolist()]}
    return {"views": [_file(v) for v in x]} if x.ndim == 4 else {"image": _file(x)}


def _file(x: Array) -> str:
    """uint8 (H, W, C) as a JPEG in base64."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(x[..., 0] if x.shape[-1] == 1 else x).save(file, "JPEG", quality=88)
    return base64.b64encode(file.getvalue()).decode("ascii")
