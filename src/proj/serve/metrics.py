"""What Prometheus reads at /metrics: the workers count into files of a folder that all share (see tallies).

Counting is done for every request and so costs little: a series' place is looked up once, then it is an addition in
memory. What grows is added up over all workers, dead ones too; what is true now comes from the board and the system.
"""

from __future__ import annotations

import math
import os
import threading
from bisect import bisect_left
from typing import TYPE_CHECKING, Any

from proj.serve import families, problems, process, tallies
from proj.serve.families import BATCH, CONFIDENCES, NOT_SURE, PARTS, PREDICTIONS, SECONDS, SIZES

if TYPE_CHECKING:
    from pathlib import Path

    from proj.bundle import Manifest
    from proj.infer import Array
    from proj.serve.board import Board
    from proj.serve.tallies import Cell

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
HUNG_UP = 499  # as proxies count a client that hung up: no error of anybody's request
DROPPED = ("gone", "late")


class Metrics:
    """A worker's own numbers, and everyone's as text. For several threads."""

    def __init__(self, shared: Board, folder: Path, index: int) -> None:
        """`folder` is the same for all workers of a server, `index` the worker's own."""
        self.board, self.folder = shared, folder
        self._tallies = tallies.Tallies(folder, index)
        self._lock = threading.Lock()
        self._cells: dict[Any, Any] = {}
        self._served: dict[str, Manifest] = {}
        (folder / f"{index}.pid").write_text(f"{os.getpid()} {process.started(os.getpid())}")
        for kind in problems.KINDS.values():  # what never happened is a 0, not a gap
            self._cell("proj_errors", kind.slug)
        for reason in DROPPED:
            self._cell("proj_dropped_inputs", reason)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count one request, by its route's own pattern: labels must not grow with what strangers ask for."""
        key = (route, status)
        cells = self._cells.get(key) or self._request_cells(route, status)
        (numbers, at), (histogram, start), error = cells
        i = start + bisect_left(SECONDS, seconds)
        with self._lock:
            numbers[at] += 1.0
            histogram[i] += 1.0
            histogram[start + len(SECONDS) + 1] += seconds
            if error is not None:
                error[0][error[1]] += 1.0

    def parts(self, model: str, queue_s: float, decode_s: float, run_s: float, encode_s: float) -> None:
        """Where an input's time went."""
        cells = self._cells.get((PARTS, model)) or self._part_cells(model)
        times = (queue_s, decode_s, run_s, encode_s)
        with self._lock:
            for (numbers, start), seconds in zip(cells, times, strict=True):
                numbers[start + bisect_left(SECONDS, seconds)] += 1.0
                numbers[start + len(SECONDS) + 1] += seconds

    def batch(self, model: str, readable: int, unreadable: int) -> None:
        """One call of the model, and what came beside it that could not be read."""
        cells = self._cells.get((BATCH, model)) or self._batch_cells(model)
        (numbers, start), (wrong, at) = cells
        with self._lock:
            if readable:
                numbers[start + bisect_left(SIZES, readable)] += 1.0
                numbers[start + len(SIZES) + 1] += readable
            wrong[at] += unreadable

    def answer(self, model: str, kind: str, answer: dict[str, Any]) -> None:
        """One answer in `infer.encode`'s form."""
        if kind == "classes":
            label = answer["label"]
            self._class(model, NOT_SURE if label is None else label, answer["confidence"])
        else:
            self._targets(model, ((name, value["value"]) for name, value in answer["values"].items()))

    def rows(self, model: str, manifest: Manifest, y: Array) -> None:
        """The answers (B, names) to a batch, that nobody brings into `infer.encode`'s form."""
        for row in y:
            if manifest.kind == "classes":
                best = int(row.argmax())
                sure = float(row[best]) >= manifest.serve.threshold
                self._class(model, manifest.names[best] if sure else NOT_SURE, float(row[best]))
            else:
                self._targets(model, zip(manifest.names, row.tolist(), strict=True))

    def _class(self, model: str, label: str, confidence: float) -> None:
        cells = self._cells.get((PREDICTIONS, model, label)) or self._class_cells(model, label)
        (numbers, at), (histogram, start) = cells
        i = start + bisect_left(CONFIDENCES, confidence)
        with self._lock:
            numbers[at] += 1.0
            if confidence == confidence:  # a NaN would make the sum one for good
                histogram[i] += 1.0
                histogram[start + len(CONFIDENCES) + 1] += confidence

    def _targets(self, model: str, values: Any) -> None:
        for target, value in values:
            numbers, at = self._cell("proj_prediction_value", model, target)
            if math.isfinite(value):
                with self._lock:
                    numbers[at] += 1.0
                    numbers[at + 1] += value

    def served(self, name: str, manifest: Manifest) -> None:
        """`manifest` answers under `name` from now on."""
        self._served = {**self._served, name: manifest}
        self._part_cells(name)
        self._batch_cells(name)
        if manifest.kind == "classes":
            for label in (*manifest.names, *((NOT_SURE,) if manifest.serve.threshold else ())):
                self._class_cells(name, label)

    def dropped(self, reason: str) -> None:
        """An input that nobody waits for any more: its client is "gone", or it is too "late"."""
        numbers, at = self._cell("proj_dropped_inputs", reason)
        with self._lock:
            numbers[at] += 1.0

    def totals(self) -> dict[tallies.Key, list[float]]:
        """All workers' numbers together, by family and labels, as `families` lays them out."""
        return tallies.totals(self.folder)

    def text(self) -> bytes:
        """All workers' numbers in Prometheus's text format."""
        return families.text(self.totals(), self.board, self._served, self._workers())

    def _workers(self) -> dict[str, process.Usage]:
        """What the server's processes use, by the worker's index or "supervisor"."""
        from multiprocessing import parent_process

        pids = {path.stem: path.read_text().split(" ") for path in sorted(self.folder.glob("*.pid"))}
        living = {name: int(pid) for name, (pid, start) in pids.items() if process.started(int(pid)) == start}
        if parent := parent_process():
            assert parent.pid is not None
            living["supervisor"] = parent.pid
        usages = {name: process.usage(pid) for name, pid in living.items()}
        return {name: usage for name, usage in usages.items() if usage}

    # ---- places of series, each looked up once

    def _cell(self, name: str, *labels: str) -> Cell:
        key = (name, *labels)
        cell: Cell | None = self._cells.get(key)
        return cell or self._keep(key, lambda: self._series(name, *labels))

    def _request_cells(self, route: str, status: int) -> Any:
        kind = problems.KINDS.get(status) or problems.KINDS[400 if status < 500 else 500]
        return self._keep(
            (route, status),
            lambda: (
                self._series("proj_requests", route, str(status)),
                self._series("proj_request_seconds", route),
                self._series("proj_errors", kind.slug) if status >= 400 and status != HUNG_UP else None,
            ),
        )

    def _part_cells(self, model: str) -> Any:
        parts = ("queue", "decode", "run", "encode")
        return self._keep((PARTS, model), lambda: [self._series(PARTS, model, part) for part in parts])

    def _batch_cells(self, model: str) -> Any:
        return self._keep(
            (BATCH, model), lambda: (self._series(BATCH, model), self._series("proj_unreadable_inputs", model))
        )

    def _class_cells(self, model: str, label: str) -> Any:
        return self._keep(
            (PREDICTIONS, model, label),
            lambda: (self._series(PREDICTIONS, model, label), self._series("proj_confidence_ratio", model)),
        )

    def _keep(self, key: Any, make: Any) -> Any:
        with self._lock:
            if key not in self._cells:
                self._cells[key] = make()
            return self._cells[key]

    def _series(self, name: str, *labels: str) -> Cell:
        return self._tallies.series(name, labels, families.FAMILIES[name].numbers)
