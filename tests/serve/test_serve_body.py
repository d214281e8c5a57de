"""The upload reader: what it counts, when it gives up, and that it costs nobody else anything."""

from __future__ import annotations

import asyncio
import functools
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from heads import head

from proj.errors import InputTooLarge, TooSlow
from proj.serve import board
from proj.serve.body import Body, Uploads
from proj.serve.connection import HungUp
from proj.serve.settings import Settings

Sender = Callable[[], Awaitable[dict[str, Any]]]

LONG_S = 10.0  # for what would else never end, or take longer: a busy machine may stand still for a second


def sender(*parts: bytes | float, end: bool = True) -> Sender:
    """Chunks, and seconds to wait between them; afterwards nothing comes (`end`: the last chunk says so)."""
    left = list(parts)

    async def receive() -> dict[str, Any]:
        while left and isinstance(left[0], float):
            await asyncio.sleep(left.pop(0))  # type: ignore[arg-type]
        if not left:
            await asyncio.sleep(3600)
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left) or not end}

    return receive


def body(receive: Sender, *, mb: float = 1.0, idle_s: float = 30.0, upload_s: float = 60.0, **headers: str) -> Body:
    settings = Settings(max_upload_mb=mb, idle_s=idle_s, upload_s=upload_s)
    return Body(receive, head("/predict", "POST", **headers), settings, uploads())


@functools.cache
def uploads() -> Uploads:
    with tempfile.TemporaryDirectory() as folder:
        board.create(Path(folder), 1)
        return Uploads(board.Board(Path(folder), 0), 10**9)


def test_it_is_read_whole_or_in_parts() -> None:
    async def main() -> None:
        made = body(sender(b"a", b"", b"bc"))
        assert await made.whole() == b"abc"
        assert made.ended
        parted = body(sender(b"a", b"bc"))
        assert [await parted.next(), await parted.next(), parted.ended] == [b"a", b"bc", True]
        assert await body(sender(b"")).whole() == b""

    asyncio.run(main())


@pytest.mark.parametrize("parts", [(b"a" * 60, b"b" * 41), (b"c" * 101,)])
def test_too_much_is_refused_whatever_was_declared(parts: tuple[bytes, ...]) -> None:
    async def main() -> None:
        with pytest.raises(InputTooLarge):
            await body(sender(*parts), mb=1e-4, content_length="5").whole()
        assert await body(sender(b"d" * 100), mb=1e-4).whole() == b"d" * 100

    asyncio.run(main())


def test_what_is_declared_too_large_is_refused_before_a_byte() -> None:
    async def main() -> None:
        silent = sender()
        with pytest.raises(InputTooLarge):
            await body(silent, mb=1e-4, content_length="101").whole()

    asyncio.run(main())


def test_an_upload_that_stands_still_is_given_up() -> None:
    async def main() -> None:
        start = time.monotonic()
        made = body(sender(b"a", 0.1, b"b", 0.1, b"c", end=False), idle_s=0.5)
        with pytest.raises(TooSlow, match="stood still"):
            await made.whole()
        assert 0.7 - 0.02 <= time.monotonic() - start < LONG_S  # the time runs from the last byte
        assert made.ended
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(0)  # the request goes on, with its answer

    asyncio.run(main())


def test_an_upload_that_drips_is_given_up() -> None:
    async def main() -> None:
        start = time.monotonic()
        drops = [part for _ in range(1000) for part in (b"a", 0.02)]
        with pytest.raises(TooSlow, match="took too long"):
            await body(sender(*drops), idle_s=10.0, upload_s=0.2).whole()
        assert 0.18 <= time.monotonic() - start < LONG_S

    asyncio.run(main())


def test_time_that_the_server_itself_takes_is_not_the_clients() -> None:
    async def main() -> None:
        made = body(sender(b"a", b"b", b"c"), idle_s=0.05)
        for wanted in (b"a", b"b", b"c"):
            assert await made.next() == wanted
            await asyncio.sleep(0.12)

    asyncio.run(main())


def test_a_request_that_is_ended_from_outside_stays_ended() -> None:
    async def main() -> None:
        task = asyncio.create_task(body(sender(), idle_s=5.0).whole())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_a_client_that_hangs_up() -> None:
    async def main() -> None:
        async def gone() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        made = body(gone)
        with pytest.raises(HungUp):
            await made.whole()
        assert made.ended

    asyncio.run(main())


def test_no_timer_is_left_behind() -> None:
    async def main() -> None:
        made = body(sender(b"a", b"b"))
        await made.whole()
        assert made._timer is None
        large = body(sender(b"a" * 200, end=False), mb=1e-4)
        with pytest.raises(InputTooLarge):
            await large.whole()
        assert large._timer is None

    asyncio.run(main())
