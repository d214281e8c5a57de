"""A real Prometheus scrapes a real server with two workers."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from serving import Server, drawing, free_log

pytestmark = pytest.mark.slow

CONFIG = """
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
- job_name: proj
  static_configs: [targets: ["{target}"]]
"""
WAIT_S = 30.0


class Prometheus:
    """The server that Debian's package brings."""

    def __init__(self, binary: str, folder: Path, target: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        (folder / "prometheus.yml").write_text(CONFIG.format(target=target))
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", trust_env=False)
        self.log = (folder / "prometheus.log").open("wb")
        self.process = subprocess.Popen(
            [
                binary,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stderr=self.log,
        )

    def ask(self, query: str) -> dict[str, float]:
        """The values of an instant query now, by their labels in order, joined."""
        try:
            answer = self.client.get("/query", params={"query": query})
        except httpx.TransportError:  # it does not listen yet
            return {}
        if answer.status_code != 200:
            return {}
        found = answer.json()["data"]["result"]
        return {" ".join(v for _, v in sorted(one["metric"].items())): float(one["value"][1]) for one in found}

    def wait(self, query: str, wanted: dict[str, float]) -> None:
        """Until a query gives just that."""
        end = time.monotonic() + WAIT_S
        while (got := self.ask(query)) != wanted:
            assert time.monotonic() < end, f"{query} is {got}, not {wanted}"
            time.sleep(0.2)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=20)
        self.client.close()
        self.log.close()


@pytest.fixture
def server(folder: Path, digits: Path) -> Iterator[Server]:
    with Server(digits, free_log(folder), workers=2) as running:
        yield running


@pytest.fixture
def prometheus(server: Server, tmp_path: Path) -> Iterator[Prometheus]:
    binary = shutil.which("prometheus")
    if not binary:
        pytest.skip("no Prometheus here: apt-get install prometheus")
    running = Prometheus(binary, tmp_path, server.url.removeprefix("http://"))
    yield running
    running.stop()


def send(server: Server, n: int) -> None:
    """A connection each, so that both workers get some."""
    for i in range(n):
        answer = server.client.post("/predict", content=drawing(i), headers={"Connection": "close"})
        assert answer.status_code == 200
    server.client.post("/predict", content=b"junk")


def test_prometheus_sees_every_request_whatever_worker_had_it(server: Server, prometheus: Prometheus) -> None:
    sent = 'sum by (status) (proj_requests_total{route="/predict"})'
    send(server, 25)
    prometheus.wait("min(up)", {"": 1})
    prometheus.wait(sent, {"200": 25, "415": 1})
    prometheus.wait("sum(proj_predictions_total)", {"": 25})
    prometheus.wait("sum(proj_errors_total) by (kind) > 0", {"unsupported": 1})
    prometheus.wait("count(process_resident_memory_bytes > 1e6)", {"": 3})

    quantiles = prometheus.ask("histogram_quantile(0.9, sum by (le, part) (proj_part_seconds_bucket))")
    assert set(quantiles) == {"queue", "decode", "run", "encode"}
    assert all(0 < seconds < 5 for seconds in quantiles.values())

    # A worker that is killed takes nothing with it, and its successor goes on where it was.
    os.kill(server.workers()[0], signal.SIGKILL)
    server.wait_for("starting another")
    end = time.monotonic() + WAIT_S
    while len(server.workers()) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    send(server, 25)
    prometheus.wait(sent, {"200": 50, "415": 2})
    assert set(prometheus.ask("resets(proj_requests_total[1m])").values()) == {0}
    rates = prometheus.ask(
        "histogram_quantile(0.5, sum by (le, part) (rate(proj_part_seconds_bucket[1m])))",
    )
    assert set(rates) == set(quantiles)
    assert prometheus.ask('rate(proj_requests_total{route="/predict",status="200"}[1m])')
