"""Takes connections from the socket that all workers share, each worker its share of them.

Left alone, the worker that wakes first takes all that is there, and keeps them: with keep-alive one works and the
others look on, above all after one of them has died and its clients have come back at once.

A worker without others needs it too: since 1.52 libuv, and so uvloop, takes one connection in each of the event loop's
rounds. With a thousand clients a round takes 20 to 40 ms, and the last of 400 connections waited for 5 s.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from proj.serve import board

if TYPE_CHECKING:
    from proj.serve.board import Board

OUT_OF_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
AT_ONCE = 64  # connections in one of the event loop's rounds: requests wait for them
PAUSE_S = 0.004  # after which a worker with more than its share looks again
BREAK_S = 0.25
PATIENCE_S = 1.5  # for which connections wait for a worker with fewer, which may be starting


class Acceptor:
    """As far as uvicorn is concerned, an asyncio server."""

    def __init__(
        self, sock: socket.socket, make: Callable[[], asyncio.Protocol], shared: Board, workers: int
    ) -> None:  # fmt: skip
        self.sock, self.make, self.board, self.workers = sock, make, shared, workers
        self.loop = asyncio.get_running_loop()
        self.taken = 0  # connections that are being made into transports
        self.since = self.looked = float("-inf")  # since when connections wait for another worker; the last look
        self._tasks: set[asyncio.Task[object]] = set()
        self._again: asyncio.TimerHandle | None = None
        sock.setblocking(False)
        self._listen()

    def close(self) -> None:
        if self._again is not None:
            self._again.cancel()
        self.loop.remove_reader(self.sock)

    async def wait_closed(self) -> None:
        pass

    def _listen(self) -> None:
        self._again = None
        self.loop.add_reader(self.sock, self._accept)

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            if not self._accept_one():
                return

    def _accept_one(self) -> bool:
        """May there be more?"""
        if self._has_more_than_others():
            now = time.monotonic()
            if now - self.looked > BREAK_S:  # others took what waited then: these have just come
                self.since = now
            self.looked = now
            if now - self.since < PATIENCE_S:
                self.loop.remove_reader(self.sock)
                self._again = self.loop.call_later(PAUSE_S, self._listen)
                return False
        try:
            connection, _ = self.sock.accept()
        except OSError as e:  # none is left: all are taken, or a client has gone
            if e.errno in OUT_OF_ROOM:  # what waits stays there: without a pause this would be asked again at once
                self.loop.remove_reader(self.sock)
                self._again = self.loop.call_later(BREAK_S, self._listen)
            return False
        connection.setblocking(False)
        self.taken += 1
        task = self.loop.create_task(self._serve(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _serve(self, connection: socket.socket) -> None:
        try:
            await self.loop.connect_accepted_socket(self.make, connection)
        except OSError:
            connection.close()
        finally:
            self.taken -= 1

    def _has_more_than_others(self) -> bool:
        if self.workers == 1:
            return False
        mine = self.board.own(board.CONNECTIONS) + self.taken
        return mine > 1 + self.board.total(board.CONNECTIONS) / self.workers
