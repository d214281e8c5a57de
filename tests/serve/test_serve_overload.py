"""The short forms of bench/overload.py and bench/chaos.py, on a model that takes some milliseconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from bundles import make_bundle
from serving import drawing

sys.path.append(str(Path(__file__).parents[2] / "bench"))

import chaos
import overload
from serving_sides import Running, proj_side

from proj.serve import traffic

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="counts in Linux's /proc"),
]
PICTURES = [drawing(i) for i in range(8)]


@contextmanager
def serving(folder: Path, *settings: str) -> Iterator[tuple[Running, list[bytes]]]:
    bundle = make_bundle(folder / "slow", work=20)
    side = proj_side("ours", bundle, *settings)
    with Running(side, PICTURES[0], folder / "log") as server:
        yield server, [side.request(server.url, p) for p in PICTURES]


def test_three_times_too_much_is_answered_or_refused_and_then_over(tmp_path: Path) -> None:
    with serving(tmp_path) as (server, requests):
        found = overload.measure(server, requests, connections=300, seconds=3)
    assert found.odd == 0, [r.content() for r in found.loads]
    assert all(r.statuses.keys() == {200, 503} for r in found.loads)
    for r in found.loads:
        assert r.per_second > 0.2 * found.capacity  # it does not collapse; other tests take what they take meanwhile
    assert found.recovered_s <= overload.RECOVERY_S
    assert found.rss_mb[-1] <= 1.2 * found.rss_mb[-2]


def test_a_killed_worker_loses_its_own_requests_only(tmp_path: Path) -> None:
    with serving(tmp_path, "--workers", "2") as (server, requests):
        while traffic.ask(server.url, requests[0])[0] != 200 or len(server.children()) < 2:
            time.sleep(0.05)
        seen, kills = chaos.kill_workers(server, requests, connections=16, seconds=6, every_s=2)
    assert len(kills) == 2
    for kill in kills:
        assert kill.failed <= kill.had
    assert sum(k.failed for k in kills) == seen.failed
    assert set(seen.statuses) <= {200, 0}


def test_what_is_in_flight_when_told_to_stop_is_answered(tmp_path: Path) -> None:
    with serving(tmp_path, "queue_size=256") as (server, requests):
        seen, code = chaos.stop_with_in_flight(server, requests, 200)
        log = server.said()
    assert seen.statuses == {200: 200}, log
    assert code == 0, log
