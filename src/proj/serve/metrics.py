"""What Prometheus reads at /metrics; several workers keep their numbers in files of a folder that all share.

prometheus_client looks for PROMETHEUS_MULTIPROC_DIR when it is imported: the worker sets it before it imports
this.
"""

from __future__ import annotations

import os
import time
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Summary,
    generate_latest,
    multiprocess,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proj.bundle import Manifest

MEDIA_TYPE = CONTENT_TYPE_LATEST
FOLDER = "PROMETHEUS_MULTIPROC_DIR"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
NOT_SURE = "not_sure"  # the label of answers without one
SIZES = (0, 1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The server's counters, for one model."""

    def __init__(self, manifest: Manifest) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "proj_requests", "Requests, by route and status", ["route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "proj_request_seconds", "Time from a request's headers to its answer's end", ["route"],
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self._predictions = Counter("proj_predictions", "Answers, by label", ["label"], registry=registry)
        self._values = Summary("proj_prediction_value", "Predicted values, by target", ["target"], registry=registry)
        self._unreadable = Counter("proj_unreadable_inputs", "Inputs that could not be read", registry=registry)
        self._batch = Histogram(
            "proj_batch_inputs",
            "Inputs that one call of the model answered",
            buckets=SIZES,
            registry=registry,
        )
        self._depth = Gauge("proj_queue_depth", "Inputs that wait now", multiprocess_mode="livesum", registry=registry)
        info = Gauge(
            "proj_model_info", "1 for the model that is served",
            ["model", "name", "version", "backbone", "data_hash"],
            multiprocess_mode="livemax", registry=registry,
        )  # fmt: skip
        info.labels(manifest.model, manifest.name, manifest.version, manifest.backbone, manifest.data_hash).set(1)
        if manifest.kind == "classes":
            held_back = (NOT_SURE,) if manifest.serve.threshold else ()
            for name in (*manifest.names, *held_back):  # a label that was never given is a 0, not a gap
                self._predictions.labels(name)

    def request(self, route: str, status: int, seconds: float) -> None:
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def queue_depth(self, inputs: int) -> None:
        self._depth.set(inputs)

    def batch(self, readable: int, unreadable: int) -> None:
        if readable:
            self._batch.observe(readable)
        self._unreadable.inc(unreadable)

    def answer(self, answer: dict[str, Any]) -> None:
        """Count one answer in `infer.encode`'s form."""
        if "label" in answer:
            self._predictions.labels(NOT_SURE if answer["label"] is None else answer["label"]).inc()
        else:
            for target, value in answer["values"].items():
                self._values.labels(target).observe(value["value"])

    def text(self) -> bytes:
        """All workers' numbers in Prometheus's text format."""
        if FOLDER not in os.environ:
            return generate_latest(self.registry)
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


class Observed:
    """ASGI middleware: counts and times every request, refused ones too."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watch)
        finally:
            # The route's own pattern, never the path: labels must not grow with what strangers ask for.
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.request(route, status, time.perf_counter() - start)
