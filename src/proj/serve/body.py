"""An upload as it comes: counted, and given up when it stands still or takes too long."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from proj.errors import Busy, InputTooLarge, TooSlow
from proj.serve import board
from proj.serve.connection import HungUp

if TYPE_CHECKING:
    from starlette.types import Receive

    from proj.serve.board import Board
    from proj.serve.head import Head
    from proj.serve.settings import Settings


class Uploads:
    """The bytes of a worker's uploads that are under way, which all workers know of. Used on the event loop alone."""

    def __init__(self, shared: Board, most: int) -> None:
        self.board, self.most, self.bytes = shared, most, 0

    def hold(self, count: int) -> None:
        """Raise Busy when so many more do not fit."""
        if self.board.total(board.UPLOADS) + count > self.most:
            raise Busy("too many uploads are under way", found=f"{self.most / 1e6:.0f} MB may be", next="try again")
        self.bytes += count
        self.board.set(board.UPLOADS, self.bytes)

    def release(self, count: int) -> None:
        self.bytes -= count
        self.board.set(board.UPLOADS, self.bytes)


class Body:
    """A request's body. Counted as it comes: Content-Length may be missing or wrong.

    One timer watches all of it. It is not moved with each chunk: when it rings, it looks how long the server has
    really been waiting, and sets itself anew. What is there already needs none: `is_there`. `ended`: nothing more will
    be read. What comes in parts counts among `uploads` until `release`.
    """

    __slots__ = (
        "_began_s", "_cancelling", "_late", "_loop", "_seen", "_since_s", "_task", "_timer", "_waits",
        "ended", "head", "held", "idle_s", "is_there", "max_bytes", "receive", "upload_s", "uploads",
    )  # fmt: skip

    def __init__(
        self, receive: Receive, head: Head, settings: Settings, uploads: Uploads, *, is_there: bool = False
    ) -> None:
        self.receive, self.head, self.is_there = receive, head, is_there
        self.uploads, self.held = uploads, 0
        self.max_bytes = settings.max_upload_bytes
        self.idle_s, self.upload_s = settings.idle_s, settings.upload_s
        self.ended = False
        self._seen = 0
        self._loop = asyncio.get_running_loop()
        self._began_s = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._waits = self._late = False
        self._since_s = self._began_s
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0

    async def whole(self) -> bytes:
        """All of it. Raises what `next` does."""
        parts = []
        while not self.ended:
            parts.append(await self.next())
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def next(self) -> bytes:
        """The next part; may be empty.

        Raises InputTooLarge above `max_bytes`, TooSlow after `idle_s` without a byte or `upload_s` in all,
        Busy where all uploads together have no room for it, HungUp.
        """
        if not self._seen:
            self._check_declared()
        chunk = await self._wait()
        self._seen += len(chunk)
        if self._seen > self.max_bytes:
            self._stop_timer()
            raise self._too_large()
        if not self.is_there:
            try:
                self.uploads.hold(len(chunk))
            except Busy:
                self._stop_timer()
                raise
            self.held += len(chunk)
        return chunk

    def release(self) -> None:
        """The request is answered, and nothing of it kept."""
        self._stop_timer()
        self.uploads.release(self.held)
        self.held = 0

    def _check_declared(self) -> None:
        declared = self.head.values.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > self.max_bytes:
            raise self._too_large()

    async def _wait(self) -> bytes:
        self._since_s = self._loop.time()
        if self._timer is None and not self.is_there:
            self._task = asyncio.current_task()
            self._cancelling = self._task.cancelling() if self._task else 0
            self._timer = self._loop.call_at(self._due_s(), self._ring)
        self._waits = True
        try:
            message = await self.receive()
        except asyncio.CancelledError:
            # The timer's own is taken back, unless somebody else ends this request too.
            if not self._late or self._task is None or self._task.uncancel() > self._cancelling:
                raise
            self.ended = True
            raise self._too_slow() from None
        finally:
            self._waits = False
        if message["type"] == "http.disconnect":
            self._end()
            raise HungUp
        if not message.get("more_body", False):
            self._end()
        chunk: bytes = message.get("body", b"")
        return chunk

    def _due_s(self) -> float:
        return min(self._since_s + self.idle_s, self._began_s + self.upload_s)

    def _ring(self) -> None:
        self._timer = None
        if not self._waits:
            return  # the server itself is busy; its next wait sets the timer again
        if self._loop.time() < self._due_s():
            self._timer = self._loop.call_at(self._due_s(), self._ring)
        elif self._task is not None:
            self._late = True
            self._task.cancel()

    def _end(self) -> None:
        self.ended = True
        self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> TooSlow:
        if self._loop.time() >= self._began_s + self.upload_s:
            return TooSlow("the upload took too long", found=f"it was not complete after {self.upload_s:g} s")
        return TooSlow("the upload stood still", found=f"no byte came for {self.idle_s:g} s")

    def _too_large(self) -> InputTooLarge:
        return InputTooLarge(
            "the upload is too large",
            found=f"the limit is {self.max_bytes / 1e6:g} MB",
            next="the operator can raise it: max_upload_mb",
        )
