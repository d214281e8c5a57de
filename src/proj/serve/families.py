"""The families of metrics: what each is called, means and is labelled by, and how they become text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from proj.serve import board

if TYPE_CHECKING:
    from prometheus_client import Metric

    from proj.bundle import Manifest
    from proj.serve.board import Board
    from proj.serve.process import Usage
    from proj.serve.tallies import Key

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
CONFIDENCES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
NOT_SURE = "not_sure"  # the label of answers without one
PARTS, BATCH, PREDICTIONS = "proj_part_seconds", "proj_batch_inputs", "proj_predictions"
SWAPS = "proj_model_swaps"  # the supervisor's, all others are the workers'


@dataclass(frozen=True, slots=True)
class Family:
    """How a series' numbers are laid out follows from `kind`.

    A counter's is one number, a summary's are count and sum. A histogram's are how many lay up to each of `bounds` and
    above the one before, how many above all, and the sum.
    """

    help: str
    labels: tuple[str, ...]
    kind: Literal["counter", "histogram", "summary"] = "counter"
    bounds: tuple[float, ...] = ()

    @property
    def numbers(self) -> int:
        return {"counter": 1, "summary": 2, "histogram": len(self.bounds) + 2}[self.kind]


def _histogram(text: str, labels: tuple[str, ...], bounds: tuple[float, ...]) -> Family:
    return Family(text, labels, "histogram", bounds)


FAMILIES = {
    "proj_requests": Family("Requests, by route and status", ("route", "status")),
    "proj_request_seconds": _histogram(
        "Time from a request's headers to its answer's end, by route", ("route",), SECONDS
    ),
    "proj_errors": Family("Answers with a status of 400 and above, by kind of problem", ("kind",)),
    PARTS: _histogram("Time of an input in each part of its way, by model", ("model", "part"), SECONDS),
    BATCH: _histogram("Inputs that one call of the model answered, by model", ("model",), SIZES),
    "proj_unreadable_inputs": Family("Inputs that could not be read, by model", ("model",)),
    "proj_dropped_inputs": Family(
        "Inputs that nobody waits for: their client was gone before they ran, or their deadline passed", ("reason",)
    ),
    PREDICTIONS: Family("Answers, by model and label", ("model", "label")),
    "proj_confidence_ratio": _histogram(
        "Probability of the class that was answered, by model", ("model",), CONFIDENCES
    ),
    "proj_prediction_value": Family("Predicted values, by model and target", ("model", "target"), "summary"),
    SWAPS: Family("Newer versions taken (ok) or refused (why), by model", ("model", "result")),
}


def text(
    totals: Mapping[Key, list[float]], shared: Board, served: Mapping[str, Manifest], usages: Mapping[str, Usage]
) -> bytes:
    """All in Prometheus's text format. `served` and `usages` are by the model's name and the worker's."""
    # Imported here: the supervisor and `proj serve --help` need none of it.
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.registry import Collector

    class Now(Collector):
        def collect(self) -> Iterator[Metric]:
            yield from _grown(totals)
            yield from _of_now(shared, served)
            yield from _of_processes(usages)

    registry = CollectorRegistry()
    registry.register(Now())
    return generate_latest(registry)


def _grown(totals: Mapping[Key, list[float]]) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, SummaryMetricFamily

    for name, family in FAMILIES.items():
        series = sorted((labels, values) for (of, labels), values in totals.items() if of == name)
        if family.kind == "counter":
            counter = CounterMetricFamily(name, family.help, labels=family.labels)
            for labels, (value,) in series:
                counter.add_metric(labels, value)
            yield counter
        elif family.kind == "summary":
            summary = SummaryMetricFamily(name, family.help, labels=family.labels)
            for labels, (count, total) in series:
                summary.add_metric(labels, int(count), total)
            yield summary
        else:
            histogram = HistogramMetricFamily(name, family.help, labels=family.labels)
            for labels, values in series:
                histogram.add_metric(labels, _buckets(family.bounds, values), values[-1])
            yield histogram


def _buckets(bounds: tuple[float, ...], values: list[float]) -> list[tuple[str, float]]:
    """Prometheus counts in each bucket what lies below it too."""
    made, below = [], 0.0
    for bound, n in zip((*map(str, bounds), "+Inf"), values, strict=False):
        below += n
        made.append((bound, below))
    return made


def _of_now(shared: Board, served: Mapping[str, Manifest]) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    waiting, connections = shared.total(board.WAITING), shared.total(board.CONNECTIONS)
    yield GaugeMetricFamily("proj_queue_depth", "Inputs that wait now", value=waiting)
    yield GaugeMetricFamily("proj_connections", "Connections that are open now", value=connections)
    uploads = shared.total(board.UPLOADS)
    yield GaugeMetricFamily("proj_upload_bytes", "Bytes of the uploads that are under way", value=uploads)
    draining = shared.total(board.DRAINING)
    yield GaugeMetricFamily("proj_draining_workers", "Workers that were told to stop", value=draining)
    labels = ("model", "task", "version", "backbone", "data_hash")
    info = GaugeMetricFamily("proj_model_info", "1 for each model that is served", labels=labels)
    for name, m in served.items():
        info.add_metric((name, m.name, m.version, m.backbone, m.data_hash), 1)
    yield info


def _of_processes(usages: Mapping[str, Usage]) -> Iterator[Metric]:
    """Under the names that Prometheus's own clients give them."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    labels = ("worker",)
    resident = GaugeMetricFamily("process_resident_memory_bytes", "Resident memory size in bytes", labels=labels)
    cpu = CounterMetricFamily("process_cpu_seconds", "Total user and system CPU time in seconds", labels=labels)
    start = GaugeMetricFamily("process_start_time_seconds", "Start time since the Unix epoch", labels=labels)
    fds = GaugeMetricFamily("process_open_fds", "Open file descriptors", labels=labels)
    max_fds = GaugeMetricFamily("process_max_fds", "Open file descriptors that are allowed", labels=labels)
    for worker, usage in usages.items():
        resident.add_metric((worker,), usage.resident_bytes)
        cpu.add_metric((worker,), usage.cpu_s)
        start.add_metric((worker,), usage.start_s)
        fds.add_metric((worker,), usage.open_fds)
        max_fds.add_metric((worker,), usage.max_fds)
    yield from (resident, cpu, start, fds, max_fds)
