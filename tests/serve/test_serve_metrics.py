"""Counting in shared files: sums over workers, threads and deaths, and the text that Prometheus reads."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import prometheus_client
import pytest
from bundles import make_bundle

from proj import bundle
from proj.serve import board, families, process, tallies
from proj.serve.metrics import Metrics
from proj.serve.tallies import Tallies

COUNTER = """
import sys
from pathlib import Path
from proj.serve.tallies import Tallies

numbers, at = Tallies(Path(sys.argv[1]), 0).series("n", ("a",))
while True:
    numbers[at] += 1
    if numbers[at] % 1000 == 0:
        print(int(numbers[at]), flush=True)
"""
SLEEP = """
import sys, time
from pathlib import Path
from proj.serve import board
from proj.serve.metrics import Metrics

folder = Path(sys.argv[1])
Metrics(board.Board(folder, 1), folder / "metrics", 1)
print("there", flush=True)
time.sleep(60)
"""


def make(folder: Path, index: int = 0, workers: int = 2) -> Metrics:
    if not (folder / board.FILE_NAME).exists():
        board.create(folder, workers)
    return Metrics(board.Board(folder, index), folder / "metrics", index)


def lines(metrics: Metrics, start: str) -> dict[str, float]:
    """Samples that begin so, by their name and labels."""
    found = (line.rsplit(" ", 1) for line in metrics.text().decode().splitlines() if line.startswith(start))
    return {name: float(value) for name, value in found}


def test_workers_add_up_and_each_tells_of_all(tmp_path: Path) -> None:
    workers = [make(tmp_path, i) for i in range(2)]
    for i, metrics in enumerate(workers):
        for _ in range(3 + i):
            metrics.request("/predict", 200, 0.02)
        metrics.request("/predict", 503, 0.0001)
    for metrics in workers:
        assert lines(metrics, "proj_requests_total") == {
            'proj_requests_total{route="/predict",status="200"}': 7,
            'proj_requests_total{route="/predict",status="503"}': 2,
        }
        assert lines(metrics, 'proj_errors_total{kind="busy"}') == {'proj_errors_total{kind="busy"}': 2}
        assert lines(metrics, 'proj_errors_total{kind="no-key"}') == {'proj_errors_total{kind="no-key"}': 0}
        assert lines(metrics, "proj_request_seconds_count") == {'proj_request_seconds_count{route="/predict"}': 9}
        assert lines(metrics, "proj_request_seconds_sum")['proj_request_seconds_sum{route="/predict"}'] == (
            pytest.approx(7 * 0.02 + 2 * 0.0001)
        )


def test_a_killed_worker_takes_no_count_with_it_and_its_successor_goes_on(tmp_path: Path) -> None:
    told = 0
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", COUNTER, str(tmp_path)], stdout=subprocess.PIPE) as worker:
            assert worker.stdout is not None
            told = max(told, *(int(worker.stdout.readline()) for _ in range(3)))
            worker.send_signal(signal.SIGKILL)
        assert tallies.totals(tmp_path)["n", ("a",)][0] >= told
    assert told >= 9000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.keys", "0.values"]


def test_threads_lose_no_count(tmp_path: Path) -> None:
    metrics = make(tmp_path)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def count() -> None:
        for _ in range(2000):
            metrics.parts("digits", 0.1, 0.1, 0.1, 0.1)

    try:
        threads = [threading.Thread(target=count) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert set(lines(metrics, "proj_part_seconds_count").values()) == {8000}


def test_histograms_are_those_of_prometheus_own_client(tmp_path: Path) -> None:
    metrics = make(tmp_path)
    registry = prometheus_client.CollectorRegistry()
    theirs = prometheus_client.Histogram(
        "proj_request_seconds", "Same", ["route"], buckets=families.SECONDS, registry=registry
    )
    seconds = [*families.SECONDS, 0.0, 31.0, *np.random.default_rng(0).exponential(0.1, 200).tolist()]
    for s in seconds:
        metrics.request("/predict", 200, s)
        theirs.labels("/predict").observe(s)
    wanted = {
        line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1])
        for line in prometheus_client.generate_latest(registry).decode().splitlines()
        if re.match(r"proj_request_seconds_(bucket|count|sum)", line)
    }
    assert lines(metrics, "proj_request_seconds_") == pytest.approx(wanted)


def test_answers_are_counted_by_model_and_label_in_either_form(tmp_path: Path) -> None:
    metrics = make(tmp_path)
    manifest = bundle.read(make_bundle(tmp_path / "digits"))
    metrics.served("a", manifest)
    assert lines(metrics, 'proj_predictions_total{label="7",model="a"}') == {
        'proj_predictions_total{label="7",model="a"}': 0
    }
    metrics.answer("a", "classes", {"label": "7", "confidence": 0.9})
    metrics.answer("a", "classes", {"label": None, "confidence": 0.2})
    rows = np.full((2, 10), 0.05, np.float32)
    rows[:, 7] = 0.55
    metrics.rows("a", manifest, rows)
    metrics.rows("a", manifest, np.full((1, 10), np.nan, np.float32))
    got = lines(metrics, "proj_predictions_total")
    assert got['proj_predictions_total{label="7",model="a"}'] == 3
    assert got['proj_predictions_total{label="not_sure",model="a"}'] == 2
    assert lines(metrics, "proj_confidence_ratio_sum") == {
        'proj_confidence_ratio_sum{model="a"}': pytest.approx(0.9 + 0.2 + 2 * 0.55)
    }


def test_values_are_summed_but_for_those_that_are_no_numbers(tmp_path: Path) -> None:
    metrics = make(tmp_path)
    for value in (2.0, 3.5, float("nan"), float("inf")):
        metrics.answer("food", "values", {"values": {"mass": {"value": value, "unit": "g"}}})
    assert lines(metrics, "proj_prediction_value") == {
        'proj_prediction_value_count{model="food",target="mass"}': 2,
        'proj_prediction_value_sum{model="food",target="mass"}': 5.5,
    }


def test_the_version_that_is_served_takes_the_former_ones_place(tmp_path: Path) -> None:
    metrics = make(tmp_path)
    for version in ("one", "two"):
        metrics.served("a", bundle.read(make_bundle(tmp_path / version, version=version)))
    info = lines(metrics, "proj_model_info")
    assert len(info) == 1
    assert 'version="two"' in next(iter(info))


def test_what_is_true_now_comes_from_the_board(tmp_path: Path) -> None:
    metrics = make(tmp_path)
    board.Board(tmp_path, 1).set(board.WAITING, 5)
    metrics.board.set(board.WAITING, 2)
    metrics.board.set(board.CONNECTIONS, 9)
    assert lines(metrics, "proj_queue_depth") == {"proj_queue_depth": 7}
    assert lines(metrics, "proj_connections") == {"proj_connections": 9}


def test_thousands_of_labels_and_odd_ones_fit(tmp_path: Path) -> None:
    metrics = make(tmp_path)
    names = [f"class {i}" for i in range(9000)] + ['"quoted"\n\\', "Straße", "\u2028"]
    for name in names:
        metrics.answer("big", "classes", {"label": name, "confidence": 0.5})
    got = tallies.totals(tmp_path / "metrics")
    assert all(got["proj_predictions", ("big", name)] == [1.0] for name in names)
    assert (tmp_path / "metrics" / "0.values").stat().st_size == 2 * tallies.CHUNK_BYTES
    again = make(tmp_path)
    again.answer("big", "classes", {"label": "class 8999", "confidence": 0.5})
    assert tallies.totals(tmp_path / "metrics")["proj_predictions", ("big", "class 8999")] == [2.0]


def test_no_series_crosses_from_one_part_of_the_file_into_the_next(tmp_path: Path) -> None:
    writer = Tallies(tmp_path, 0)
    n = 17  # which does not go into what the file grows by
    wanted = {}
    for i in range(3 * tallies.CHUNK // n):
        numbers, at = writer.series("n", (str(i),), n)
        for k in range(n):
            numbers[at + k] = i * n + k
        wanted["n", (str(i),)] = [float(i * n + k) for k in range(n)]
    assert tallies.totals(tmp_path) == wanted


def test_a_line_of_keys_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    numbers, at = Tallies(tmp_path, 0).series("n", ("a",))
    numbers[at] = 3
    with (tmp_path / "0.keys").open("ab") as file:
        file.write(b'["n", ["b"], 1')
    assert tallies.totals(tmp_path) == {("n", ("a",)): [3.0]}
    successor = Tallies(tmp_path, 0)
    for label, value in (("b", 5.0), ("c", 7.0)):
        numbers, at = successor.series("n", (label,))
        numbers[at] = value
    assert tallies.totals(tmp_path) == {("n", ("a",)): [3.0], ("n", ("b",)): [5.0], ("n", ("c",)): [7.0]}


@pytest.mark.skipif(not process.usage(os.getpid()), reason="no /proc here")
def test_each_living_process_is_told_of_and_no_dead_one(tmp_path: Path) -> None:
    metrics = make(tmp_path)
    with subprocess.Popen([sys.executable, "-c", SLEEP, str(tmp_path)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"there\n"
        resident = lines(metrics, "process_resident_memory_bytes")
        assert len(resident) == 2
        assert all(5e6 < n < 5e9 for n in resident.values())
        other.kill()
    assert list(lines(metrics, "process_resident_memory_bytes")) == ['process_resident_memory_bytes{worker="0"}']
    with Path("/dev/null").open() as _:
        before = lines(metrics, "process_open_fds")['process_open_fds{worker="0"}']
    assert lines(metrics, "process_open_fds")['process_open_fds{worker="0"}'] == before - 1
    (tmp_path / "metrics" / "0.pid").write_text(f"{os.getpid()} 1")  # its number now belongs to another process
    assert not lines(metrics, "process_resident_memory_bytes")


def test_promtool_finds_nothing_to_say(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if not promtool:
        pytest.skip("no promtool here: apt-get install prometheus")
    metrics = make(tmp_path)
    metrics.served("a", bundle.read(make_bundle(tmp_path / "digits")))
    metrics.answer("a", "classes", {"label": "7", "confidence": 0.9})
    metrics.answer("food", "values", {"values": {"mass": {"value": 1.0, "unit": "g"}}})
    metrics.request("/predict", 200, 0.1)
    done = subprocess.run([promtool, "check", "metrics"], input=metrics.text(), capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
