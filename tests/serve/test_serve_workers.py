"""The order in which workers start, with processes that say nothing but what they are told to."""

from __future__ import annotations

import multiprocessing
import socket
import time
from collections.abc import Iterator
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pytest

from proj.serve.children import Children
from proj.serve.settings import Settings
from proj.serve.workers import Workers

LIMIT_S = 60.0


def work(*args: Any) -> None:
    """Says how it was started, then repeats what it hears."""
    *_, index, early, pipe = args
    pipe.send(("started", index, early))
    while True:
        try:
            pipe.send(pipe.recv())
        except EOFError:
            return


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        made = Workers(Settings(workers=3), sock, tmp_path, Children(sock), work, dict)
        yield made
        for child in made.hang_up():
            child.process.join(LIMIT_S)
    assert not multiprocessing.active_children()


def heard(workers: Workers, count: int) -> list[tuple[Any, ...]]:
    """The next `count` messages."""
    found: list[tuple[Any, ...]] = []
    end = time.monotonic() + LIMIT_S
    while len(found) < count and time.monotonic() < end:
        wait(workers.waited_for(), end - time.monotonic())
        found += [message for _, message in workers.tend()]
    assert len(found) == count
    return found


def test_until_the_first_is_ready_it_is_alone_and_the_others_are_started_ready_to_answer(workers: Workers) -> None:
    workers.start_due()
    assert heard(workers, 1) == [("started", 0, True)]
    assert workers.next_start() is None  # or the supervisor would turn in circles
    workers.start_due()
    assert [w.child is not None for w in workers.all] == [True, False, False]

    assert workers.all[0].child is not None
    workers.all[0].child.say("ready")
    assert heard(workers, 1) == [("ready",)]
    due = workers.next_start()
    assert due is not None
    assert due <= time.monotonic()
    workers.start_due()
    assert sorted(heard(workers, 2)) == [("started", 1, False), ("started", 2, False)]


def test_one_that_ends_before_it_is_ready_is_alone_again_after_a_pause(workers: Workers) -> None:
    workers.start_due()
    heard(workers, 1)
    first = workers.all[0].child
    assert first is not None
    first.process.kill()
    assert heard(workers, 1) == [("ended",)]
    due = workers.next_start()
    assert due is not None
    assert due > time.monotonic()
    time.sleep(due - time.monotonic())
    workers.start_due()
    assert heard(workers, 1) == [("started", 0, True)]
    assert [w.child is not None for w in workers.all] == [True, False, False]
