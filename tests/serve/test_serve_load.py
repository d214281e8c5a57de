"""The load generator, on a small real server that does as each test needs."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from proj.serve import load, traffic
from proj.serve.traffic import BROKEN, UNANSWERED, Result

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
BUSY = b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\ncontent-length: 2000\r\n\r\n" + b"x" * 2000
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
LAST = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"
HANG_UP = b""

peers: set[object] = set()  # clients' ends of the connections of the last server
Answer = Callable[[int], tuple[float, bytes]]  # number of the request -> seconds to wait, bytes


@contextmanager
def serving(answer: Answer) -> Iterator[tuple[str, list[bytes]]]:
    """A server that reads whole requests and answers the nth as told; gives its URL and the bodies that came."""
    came: list[bytes] = []
    peers.clear()
    loop = asyncio.new_event_loop()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.add(writer.get_extra_info("peername"))
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                came.append(await reader.readexactly(length))
                wait_s, said = answer(len(came))
                await asyncio.sleep(wait_s)
                if not said:
                    writer.transport.abort()
                    return
                for part in (said[:10], said[10:100], said[100:]):  # in pieces, as a network may bring them
                    writer.write(part)
                    await asyncio.sleep(0)
                if b"close" in said:
                    writer.close()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()

    server = loop.run_until_complete(asyncio.start_server(talk, "127.0.0.1", 0, backlog=512))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", came
    finally:

        async def stop() -> None:
            server.close()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for t in tasks:
                t.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            loop.stop()

        asyncio.run_coroutine_threadsafe(stop(), loop)
        thread.join()
        loop.close()


def test_a_closed_loop_sends_again_when_it_is_answered() -> None:
    with serving(lambda _: (0.05, OK)) as (url, came):
        seen = load.run(url, [traffic.post(url, b"abc", "text/plain")], connections=4, seconds=0.5)
    assert set(came) == {b"abc"}
    assert seen.statuses == {200: len(came)}
    assert 30 <= len(came) <= 44  # four connections, twenty a second each
    assert 0.05 <= seen.latency_s(0.5) < 0.1
    assert seen.failed == 0
    assert len(peers) == 4


def test_requests_are_sent_in_turn_and_the_count_ends_it() -> None:
    with serving(lambda _: (0.0, OK)) as (url, came):
        requests = [traffic.post(url, body, "text/plain") for body in (b"a", b"b", b"c")]
        seen = load.run(url, requests, connections=1, seconds=60, count=7)
    assert b"".join(came) == b"abcabca"
    assert len(seen.status) == 7
    assert seen.seconds < 5


def test_an_open_loop_counts_from_when_a_request_was_due() -> None:
    # The server takes 50 ms for each on its one connection, and 50 a second are due: they wait for each other.
    with serving(lambda _: (0.05, OK)) as (url, came):
        seen = load.run(url, [traffic.post(url, b"a", "text/plain")], connections=1, seconds=0.8, rate=50, patience_s=9)
    assert len(seen.status) == len(came) == pytest.approx(40, abs=2)
    assert seen.latency_s(1.0) > 0.8  # the last was due after 0.8 s and answered after 2 s
    assert seen.latency_s(0.0) < 0.2
    assert seen.per_second < 25  # what came within the time


def test_an_open_loop_keeps_its_rate() -> None:
    with serving(lambda _: (0.0, OK)) as (url, _):
        seen = load.run(url, [traffic.post(url, b"a", "text/plain")], connections=8, seconds=0.5, rate=200)
    assert len(seen.status) == pytest.approx(100, abs=3)
    assert seen.due_s[-1] - seen.due_s[0] == pytest.approx(0.5, abs=0.05)


def test_the_warm_up_does_not_count() -> None:
    with serving(lambda n: (0.0, BUSY if n <= 5 else OK)) as (url, came):
        seen = load.run(url, [traffic.post(url, b"a", "text/plain")], connections=1, seconds=0.2, warm_s=0.2)
    assert seen.statuses.keys() == {200}
    assert len(seen.status) < len(came)


def test_refusals_are_counted_with_their_header() -> None:
    bare = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"
    with serving(lambda n: (0.0, [OK, BUSY, bare][n % 3])) as (url, _):
        seen = load.run(url, [traffic.post(url, b"a", "text/plain")], connections=1, seconds=9, count=30)
    assert seen.statuses == {200: 10, 503: 20}
    assert seen.retry_after == 10
    assert seen.failed == 0


def test_a_connection_that_breaks_is_made_again() -> None:
    with serving(lambda n: (0.0, HANG_UP if n % 5 == 0 else OK)) as (url, _):
        seen = load.run(url, [traffic.post(url, b"a", "text/plain")], connections=2, seconds=9, count=20)
    assert seen.statuses == {BROKEN: 4, 200: 16}
    assert seen.failed == 4


def test_a_server_that_ends_breaks_what_was_sent() -> None:
    with serving(lambda _: (0.0, OK)) as (url, _):
        request = traffic.post(url, b"a", "text/plain")
    with pytest.raises(OSError):
        load.run(url, [request], connections=1, seconds=1)


@pytest.mark.parametrize("answer", [CHUNKED, LAST], ids=["chunked", "closed after each"])
def test_other_forms_of_answer_are_read(answer: bytes) -> None:
    with serving(lambda _: (0.0, answer)) as (url, _):
        seen = load.run(url, [traffic.post(url, b"a", "text/plain")], connections=2, seconds=9, count=10)
    assert seen.statuses == {200: 10}
    assert len(peers) >= (2 if answer is CHUNKED else 10)


def test_what_is_never_answered_is_said() -> None:
    with serving(lambda n: (0.0 if n < 5 else 60.0, OK)) as (url, _):
        start = time.monotonic()
        seen = load.run(url, [traffic.post(url, b"a", "text/plain")], connections=2, seconds=0.1, patience_s=0.2)
    assert time.monotonic() - start < 30
    assert seen.statuses == {UNANSWERED: 2, 200: 4}


def test_large_requests_are_sent_whole() -> None:
    body = np.random.default_rng(0).bytes(3_000_000)
    with serving(lambda _: (0.0, OK)) as (url, came):
        seen = load.run(url, [traffic.post(url, body, "text/plain")], connections=2, seconds=9, count=4)
    assert seen.statuses == {200: 4}
    assert came == [body] * 4


def test_it_stops_when_asked_to() -> None:
    with serving(lambda _: (0.0, OK)) as (url, _):
        start, called = time.monotonic(), []
        seen = load.run(
            url, [traffic.post(url, b"a", "text/plain")], connections=1, seconds=60,
            until=lambda: time.monotonic() > start + 0.3, on_sent=lambda: called.append(1),
        )  # fmt: skip
    assert 0.3 <= time.monotonic() - start < 30
    assert seen.seconds < 30
    assert called == [1]


def test_many_connections_raise_the_limit_of_open_files() -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 < before[1] < 400:
        pytest.skip("no room for 200 connections here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[0], 330), before[1]))
    try:
        with serving(lambda _: (0.0, OK)) as (url, _):  # both ends of each connection are ours
            seen = load.run(url, [traffic.post(url, b"a", "text/plain")], connections=100, seconds=9, count=300)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(before[0], 330)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert seen.statuses == {200: 300}


def result(due: list[float], ended: list[float], status: list[int]) -> Result:
    return Result(1.0, np.array(due), np.array(ended), np.array(status), 0, 0.0)


def test_what_ended_after_the_time_is_not_of_the_rate() -> None:
    seen = result([-0.1, 0.2, 0.9, 0.5], [0.1, 0.4, 1.3, 0.6], [200, 200, 200, 503])
    assert seen.per_second == 2.0
    assert seen.latency_s(1.0) == pytest.approx(0.4)
    assert seen.latency_s(0.5, status=503) == pytest.approx(0.1)
    assert math.isnan(seen.latency_s(0.5, status=404))


def test_a_form_is_what_browsers_send() -> None:
    sent = traffic.form("http://h:1", b"\xff\xd8jpeg", field_name="photo")
    head, _, body = sent.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /predict HTTP/1.1\r\nHost: h:1\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert b'name="photo"; filename="photo.jpg"' in body
    assert b"\xff\xd8jpeg\r\n--" in body
