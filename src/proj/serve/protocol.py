"""HTTP/1.1 as uvicorn speaks it by httptools, with the limits of this server.

What is no HTTP is answered with a problem; a head that takes too long or grows too large, and a body that does not end
after its answer, are cut off; connections above the limit are answered 503 at once; and a request can see whether its
client has hung up.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from proj.serve import board, guard, problems
from proj.serve.connection import Connection

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from proj.serve.board import Board
    from proj.serve.settings import Settings

MAX_HEAD_BYTES = 65_536  # of request line and headers together, as most servers and proxies take
BEYOND = 256  # connections above the limit that still get an answer; those above are closed
TAIL_S = 10.0  # that the rest of a body may take to come once its request is answered
LAST_WORD_S = 0.2  # of a connection without a request when the server stops: one may be on its way
STATE = "proj.connection"
BREATH_S = 0.1  # for which a connection that was told to come later, and came again at once, is not read
SOON_S = 0.25  # two refusals within this time: the client asks again without a pause


class _Joined:
    """A transport that sends a response's head together with its body: one call of the system, one packet.

    uvicorn writes them one after the other; what was written is held until the next write or the loop's next round.
    `close` does nothing while `stays()` is true; `end` does not ask.
    """

    __slots__ = ("_held", "_loop", "_stays", "_transport")

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, stays: Callable[[], bool]
    ) -> None:
        self._transport, self._loop, self._stays, self._held = transport, loop, stays, b""

    def write(self, content: bytes) -> None:
        if self._held:
            content, self._held = self._held + content, b""
            self._transport.write(content)
        else:
            self._held = content
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self._held:
            content, self._held = self._held, b""
            self._transport.write(content)

    def close(self) -> None:
        if not self._stays():
            self.end()

    def end(self) -> None:
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Http(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self, *args: Any, shared: Board, settings: Settings, refused: Callable[[int, str], None], **options: Any
    ) -> None:
        """`refused` hears the status, and of whom, where a connection is refused what the application never sees."""
        super().__init__(*args, **options)
        self.board, self.settings, self.refused = shared, settings, refused
        self.asker = Connection()
        self.full = self.stopping = False
        self.head_bytes = 0
        self.refused_s = float("-inf")  # when the last request was told to come later
        self.head_began_s: float | None = time.monotonic()  # None: no head is being waited for
        self.body_is_whole = True
        self.answered_s: float | None = None  # since when, at the latest, a body that is not whole is of no use

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.joined = _Joined(transport, self.loop, self._hears_out)
        super().connection_made(self.joined)  # type: ignore[arg-type]
        self._count()
        open_now = self.board.total(board.CONNECTIONS)
        self.full = open_now > self.settings.connections
        if open_now > self.settings.connections + BEYOND:
            self._tell_refused(503)
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.asker.lost = True
        super().connection_lost(exc)
        self._count()

    def _count(self) -> None:
        self.board.set(board.CONNECTIONS, len(self.connections))

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # nothing is upgraded to: the request is answered as it stands
        except httptools.HttpParserError as e:
            self._refuse(400, f"not an HTTP request: {type(e).__name__}")
            return
        if self.head_began_s is not None:
            self.head_bytes += len(data)
            if self.head_bytes > MAX_HEAD_BYTES:
                self._refuse(431, f"the request's head has over {MAX_HEAD_BYTES} bytes")

    def on_message_begin(self) -> None:
        self.head_began_s = time.monotonic()
        self.head_bytes = 0
        self.body_is_whole, self.answered_s = False, None
        super().on_message_begin()
        self.scope["state"][STATE] = self

    def on_headers_complete(self) -> None:
        self.head_began_s = None
        super().on_headers_complete()
        if self.stopping and self.cycle is not None:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self.body_is_whole = True
        if self.cycle is not None and self.cycle.response_complete and not self.cycle.keep_alive:
            self.transport.close()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle is None or not self.cycle.response_complete:  # it was the one before
            return
        self.cycle.body = bytearray()  # of a refused request nobody has read it, and a connection may idle for long
        if not self.body_is_whole and self.cycle.waiting_for_100_continue:
            self.transport.close()  # what comes next may be a body or not: nobody knows

    def _hears_out(self) -> bool:
        """Does a body still come whose answer has been sent?

        Closed now, the connection would be reset, and a client that is still sending would never see the answer.
        """
        if self.stopping or self.body_is_whole or self.cycle is None:
            return False
        return self.cycle.response_complete and not self.cycle.waiting_for_100_continue

    @property
    def is_whole(self) -> bool:
        """Has the request that is being answered come to its end?"""
        return self.cycle is not None and not self.cycle.more_body

    def shutdown(self) -> None:
        """The server is stopping: end after the answer; where none is due, after what may already have come."""
        self.stopping = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(LAST_WORD_S, super().shutdown)
        else:
            super().shutdown()

    def breathe(self) -> None:
        """Do not read the next request at once: clients that ask again without a pause would take all of the loop."""
        before_s, self.refused_s = self.refused_s, time.monotonic()
        if self.refused_s - before_s < SOON_S and not self.transport.is_closing():
            self.flow.pause_reading()
            self.loop.call_later(BREATH_S, self.flow.resume_reading)

    def cut_off_if_late(self, now_s: float) -> None:
        """Close a connection on which nothing comes that can be answered. `now_s` is time.monotonic's.

        A request's head that does not come, and what uvicorn leaves open: its timer between requests ends with the
        next byte, and of a body that comes after its answer nothing sets it again.
        """
        if self.head_began_s is not None:
            if now_s - self.head_began_s > self.settings.head_s:
                self.head_began_s = None
                self._refuse(408, f"no whole request came within {self.settings.head_s:g} s")
        elif self.cycle is not None and self.cycle.response_complete:
            if not self.body_is_whole:
                self.answered_s = now_s if self.answered_s is None else self.answered_s
                if now_s - self.answered_s > TAIL_S:
                    self.joined.end()
            elif self.timeout_keep_alive_task is None:
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )

    def _tell_refused(self, status: int) -> None:
        self.refused(status, self.client[0] if self.client else "")

    def _refuse(self, status: int, detail: str) -> None:
        """Answer without the application, and close."""
        if self.transport.is_closing():
            return
        self._tell_refused(status)
        if self.cycle is None or self.cycle.response_complete:  # else the answer would land within another
            content = problems.reply("", status, detail)
            lines = [
                *guard.SECURITY_HEADERS,
                (b"content-type", content.media_type),
                (b"content-length", b"%d" % len(content.body)),
                (b"connection", b"close"),
            ]
            head = b"".join(b"%b: %b\r\n" % line for line in lines)
            self.transport.write(STATUS_LINE[status] + head + b"\r\n" + content.body)
        self.joined.end()
