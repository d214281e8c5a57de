"""How a worker takes connections from the socket that all of them share."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from proj.serve import accept, board
from proj.serve.board import Board


class Full(socket.socket):
    """A listening socket of a process that may open no more files, until `files` says otherwise."""

    files, asked = 0, 0

    def accept(self) -> Any:
        self.asked += 1
        if self.files:
            return super().accept()
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_without_room_for_another_connection_it_is_not_asked_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accept, "BREAK_S", 0.05)
    board.create(tmp_path, 1)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        made: asyncio.Future[None] = loop.create_future()

        class Made(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                transport.close()
                made.set_result(None)

        with Full() as sock, socket.socket() as client:
            sock.bind(("127.0.0.1", 0))
            sock.listen()
            acceptor = accept.Acceptor(sock, Made, Board(tmp_path, 0), 1)
            client.connect(sock.getsockname())
            await asyncio.sleep(0.3)
            assert 1 <= sock.asked <= 8
            sock.files = 1
            await asyncio.wait_for(made, 10)
            acceptor.close()

    asyncio.run(main())


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_connections_that_came_together_are_taken_together(tmp_path: Path, loop: str) -> None:
    """A busy event loop's rounds are long: with one connection in each the last would wait for seconds."""
    board.create(tmp_path, 1)
    many, most = 3 * accept.AT_ONCE, 12

    async def main() -> None:
        made, rounds = 0, 0

        class Made(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                nonlocal made
                made += 1
                transport.close()

        with contextlib.ExitStack() as open_ones:
            sock = open_ones.enter_context(socket.socket())
            sock.bind(("127.0.0.1", 0))
            sock.listen(many)
            for _ in range(many):
                open_ones.enter_context(socket.create_connection(sock.getsockname()))
            acceptor = accept.Acceptor(sock, Made, Board(tmp_path, 0), 1)
            while made < many and rounds < most:
                rounds += 1
                await asyncio.sleep(0)
            acceptor.close()
        assert made == many, f"{made} of {many} after {rounds} rounds"

    if loop == "uvloop":
        pytest.importorskip("uvloop").run(main())
    else:
        asyncio.run(main())
