"""Which cores the server's threads run on."""

from __future__ import annotations

import base64
import os
import sys
from pathlib import Path

import pytest
from serving import Server, free_log

from proj.serve import cores
from proj.serve.settings import Settings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps threads to cores, and lists them")


@pytest.mark.parametrize(
    ("allowed", "told", "want"),
    [
        ({0, 1}, {"workers": 1, "threads": 2}, [(0, 1)]),
        ({0, 1}, {"workers": 2, "threads": 1}, [(0,), (1,)]),
        ({2, 3, 6, 7}, {"workers": 2, "threads": 2}, [(2, 3), (6, 7)]),
        ({0, 1}, {"workers": 1, "threads": 1}, [()]),
        ({0, 1}, {"workers": 1, "threads": 3}, [()]),
        ({0, 1}, {"workers": 2, "threads": 2}, [(), ()]),
    ],
)
def test_threads_keep_to_a_core_where_there_is_one_for_each(
    monkeypatch: pytest.MonkeyPatch, allowed: set[int], told: dict[str, int], want: list[tuple[int, ...]]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: allowed)
    assert [cores.pins(Settings.model_validate(told), i) for i in range(told["workers"])] == want


@pytest.mark.parametrize(("threads", "want"), [(0, 2), (1, 1), (2, 2), (64, 2)])
def test_no_more_calls_are_prepared_for_than_cores_can_run(
    monkeypatch: pytest.MonkeyPatch, threads: int, want: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert cores.at_once(Settings(workers=1, threads=threads)) == want


@pytest.mark.parametrize("spare", [0, 1])
def test_a_servers_threads_are_kept_to_cores_unless_more_were_asked_for(folder: Path, digits: Path, spare: int) -> None:
    there = sorted(os.sched_getaffinity(0))
    if len(there) < 2:
        pytest.skip("one core: nothing to tell apart")
    with Server(digits, free_log(folder), workers=1, threads=len(there) + spare) as server:
        large = {"image": base64.b64encode(bytes(60_000)).decode()}  # read beside the event loop
        assert server.client.post("/predict", json=large).status_code in {415, 422}
        (worker,) = server.workers()
        tasks = [task.read_text() for task in Path(f"/proc/{worker}/task").glob("*/status")]
    allowed = [line.split()[1] for task in tasks for line in task.splitlines() if "Cpus_allowed_list" in line]
    want = [0 if spare else 1] * len(there)
    want[0] += len(there) == 2 and not spare  # the event loop
    assert [allowed.count(str(core)) for core in there] == want


def test_the_event_loop_goes_before_the_threads_that_run_a_model(folder: Path, digits: Path) -> None:
    with Server(digits, free_log(folder), workers=1, threads=2) as server:
        (worker,) = server.workers()
        niceness = [os.getpriority(os.PRIO_PROCESS, int(task.name)) for task in Path(f"/proc/{worker}/task").iterdir()]
        assert os.getpriority(os.PRIO_PROCESS, worker) == os.getpriority(os.PRIO_PROCESS, 0)  # the loop's thread
    assert niceness.count(os.getpriority(os.PRIO_PROCESS, 0) + cores.NICE) == 3  # two that answer, one that loads
