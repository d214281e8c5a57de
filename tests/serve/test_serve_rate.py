"""The rate limit: its window, several workers, bounded memory, and when to come back."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proj.serve import rate
from proj.serve.rate import Rate, place


class Clock:
    """time.monotonic of the module, moved by hand. Begins at the start of a window."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, s: float = 1000.0) -> None:
        self.s = s
        monkeypatch.setattr(rate.time, "monotonic", lambda: self.s)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def limiter(folder: Path, per_s: float, index: int = 0, workers: int = 1) -> Rate:
    if index == 0:
        rate.create(folder, workers)
    return Rate(folder, index, per_s)


def admitted(of: Rate, n: int, who: str = "a") -> int:
    return sum(of.take(who) == 0.0 for _ in range(n))


def test_the_window_slides(tmp_path: Path, clock: Clock) -> None:
    one = limiter(tmp_path, 10)
    clock.s += 0.5
    assert admitted(one, 100) == 10
    clock.s += 0.5  # a new window: all of the old one still count
    assert admitted(one, 100) == 0
    clock.s += 0.5  # half of them
    assert admitted(one, 100) == 5
    clock.s += 0.25
    assert admitted(one, 100) == 3  # 10 * 0.25 and 5 of this window leave 2.5
    clock.s += 10
    assert admitted(one, 100) == 10


@pytest.mark.parametrize("per_s", [0.1, 0.5, 1, 1.5, 7, 1000])
def test_who_asks_all_the_time_gets_the_rate(tmp_path: Path, clock: Clock, per_s: float) -> None:
    one = limiter(tmp_path, per_s)
    seconds, step = max(20.0, 20 / per_s), max(0.001, 0.05 / per_s)
    passed = 0
    for _ in range(int(seconds / step)):
        clock.s += step
        passed += one.take("a") == 0.0
    assert per_s * seconds * 0.95 <= passed <= per_s * seconds + one.limit


@pytest.mark.parametrize("per_s", [0.1, 1, 1.5, 2, 7, 30])
def test_who_asks_evenly_at_the_rate_is_never_refused(tmp_path: Path, clock: Clock, per_s: float) -> None:
    one = limiter(tmp_path, per_s)
    for _ in range(300):
        clock.s += 1.0001 / per_s
        assert one.take("a") == 0.0


@given(per_s=st.sampled_from([0.2, 1, 3, 40]), gaps=st.lists(st.floats(0.0, 1.5), min_size=1, max_size=60))
def test_who_comes_back_when_told_is_let_in_and_not_before(
    tmp_path_factory: pytest.TempPathFactory, per_s: float, gaps: list[float]
) -> None:
    one = limiter(tmp_path_factory.mktemp("rate"), per_s)
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock(patch)
        for gap in gaps:
            clock.s += gap * one.window_s
            wait_s = one.take("a")
            if wait_s:
                assert 0 < wait_s <= 2 * one.window_s
                clock.s += max(0.0, wait_s - 0.01 * one.window_s)
                assert one.take("a") > 0
                clock.s += 0.011 * one.window_s
                assert one.take("a") == 0.0


def test_refused_requests_do_not_count(tmp_path: Path, clock: Clock) -> None:
    one = limiter(tmp_path, 5)
    assert admitted(one, 1000) == 5
    clock.s += 2
    assert admitted(one, 1000) == 5


def test_askers_do_not_touch_each_other(tmp_path: Path, clock: Clock) -> None:  # noqa: ARG001
    one = limiter(tmp_path, 5)
    assert admitted(one, 20, "a") == admitted(one, 20, "b") == 5
    fair = [admitted(one, 6, f"10.0.{i // 250}.{i % 250}") for i in range(2000)]
    assert sum(n == 5 for n in fair) >= 1990  # of a sketch's slots a few are shared by chance
    assert max(fair) == 5


def test_memory_does_not_grow_with_addresses(tmp_path: Path) -> None:
    one = limiter(tmp_path, 100)
    size = (tmp_path / rate.FILE_NAME).stat().st_size
    for i in range(20_000):
        one.take(f"2001:db8::{i:x}")
    assert (tmp_path / rate.FILE_NAME).stat().st_size == size < 600_000
    assert (tmp_path / rate.FILE_NAME).stat().st_mode & 0o077 == 0
    assert b"2001:db8" not in (tmp_path / rate.FILE_NAME).read_bytes()


def test_no_stranger_can_choose_a_slot(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    a, b = limiter(tmp_path / "a", 1), limiter(tmp_path / "b", 1)
    assert a._slots("10.0.0.1") != b._slots("10.0.0.1")
    assert a._slots("10.0.0.1") == Rate(tmp_path / "a", 0, 1)._slots("10.0.0.1")


def ask(folder: str, index: int, per_s: float, seconds: float, told: Any) -> None:
    """A worker that asks as often as it can; says how many it let in."""
    one = Rate(Path(folder), index, per_s)
    end, passed = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        passed += one.take("10.0.0.1") == 0.0
        time.sleep(0.0005)
    told.put(passed)


def test_two_processes_keep_the_limit_together(tmp_path: Path) -> None:
    rate.create(tmp_path, 2)
    spawn = multiprocessing.get_context("spawn")
    told: Any = spawn.SimpleQueue()
    start = time.monotonic()
    workers = [spawn.Process(target=ask, args=(str(tmp_path), i, 50.0, 1.5, told)) for i in range(2)]
    for w in workers:
        w.start()
    passed = [told.get() for _ in workers]
    took_s = time.monotonic() - start
    for w in workers:
        w.join()
    assert 50 <= sum(passed) <= 50 * (took_s + 1)
    assert min(passed) >= 0


def test_workers_in_turn_share_one_limit(tmp_path: Path, clock: Clock) -> None:
    a, b = limiter(tmp_path, 10, 0, 2), limiter(tmp_path, 10, 1, 2)
    passed = [w.take("x") == 0.0 for _ in range(10) for w in (a, b)]
    assert sum(passed) == 10
    clock.s += 1.5  # b slept through a window: its old counts do not come back
    assert admitted(a, 20, "x") == 5
    clock.s += 2.0
    assert admitted(a, 20, "x") == 10
    assert admitted(b, 20, "x") == 0


def hold(folder: str, index: int, told: Any) -> None:
    one = Rate(Path(folder), index, 10.0)
    told.put(True)
    while True:
        one.take("10.0.0.1")


def test_a_worker_that_is_killed_leaves_no_lock_and_its_place_can_be_taken(tmp_path: Path) -> None:
    rate.create(tmp_path, 2)
    spawn = multiprocessing.get_context("spawn")
    told: Any = spawn.SimpleQueue()
    worker = spawn.Process(target=hold, args=(str(tmp_path), 1, told))
    worker.start()
    told.get()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    other, again = Rate(tmp_path, 0, 10.0), Rate(tmp_path, 1, 10.0)
    deadline = time.monotonic() + 5
    while other.take("10.0.0.1"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert admitted(again, 5, "someone else") == 5


@pytest.mark.parametrize(
    ("address", "same_as", "same"),
    [("10.0.0.1", "10.0.0.2", False), ("2001:db8::1", "2001:db8::ffff", True), ("2001:db8::1", "2001:DB8:0:0::2", True),
     ("2001:db8::1", "2001:db8:0:1::1", False), ("::ffff:10.0.0.1", "10.0.0.1", True),
     ("fe80::1%eth0", "fe80::1", True),
     ("no:address", "no:address", True), ("", "", True)],
)  # fmt: skip
def test_what_counts_as_one_asker(address: str, same_as: str, same: bool) -> None:
    assert (place(address) == place(same_as)) is same
