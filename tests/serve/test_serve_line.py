"""What waits for the threads that answer."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from proj.serve.line import Line


def until_they_wait(line: Line[int], count: int) -> None:
    end = time.monotonic() + 10
    while len(line._gates) < count:
        assert time.monotonic() < end
        time.sleep(0.001)


def test_first_in_is_first_out_and_its_end_is_none() -> None:
    line: Line[int] = Line()
    for i in range(3):
        line.put(i)
    line.close()
    assert (len(line), line.first) == (3, 0)
    assert [line.take(0), line.take_now(), line.take(0), line.take(0), line.take_now()] == [0, 1, 2, None, None]
    assert line.first is None


def test_how_many_wait_is_told_after_each_change() -> None:
    told: list[int] = []
    line: Line[str] = Line(told.append)
    line.put("a")
    line.put("b")
    line.take(0)
    line.take_now()
    line.take_now()
    assert told == [1, 2, 1, 0]


def test_of_those_who_wait_the_first_in_rank_is_woken() -> None:
    line: Line[int] = Line()
    got: list[tuple[int, int | None]] = []
    threads = [threading.Thread(target=lambda n=n: got.append((n, line.take(n)))) for n in range(3)]
    for i, rank in enumerate((1, 0, 2)):
        threads[rank].start()
        until_they_wait(line, i + 1)
    for item, rank in enumerate((0, 1)):
        line.put(item)
        threads[rank].join(10)
        assert got[item:] == [(rank, item)]
    line.close()
    threads[2].join(10)
    assert got[2:] == [(2, None)]


def test_many_threads_take_each_item_once() -> None:
    line: Line[int] = Line()

    def take_all(rank: int) -> list[int]:
        found = []
        while (item := line.take(rank)) is not None:
            found.append(item)
        return found

    with ThreadPoolExecutor(6) as pool:
        takers = [pool.submit(take_all, rank) for rank in range(4)]
        putters = [pool.submit(lambda k=k: [line.put(k * 1000 + i) for i in range(1000)]) for k in range(2)]
        for p in putters:
            p.result(30)
        line.close()
        taken = [t.result(30) for t in takers]
    assert sorted(i for t in taken for i in t) == list(range(2000))
