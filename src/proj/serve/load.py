"""Load on a server over HTTP/1.1, and what its users would have seen of it.

Closed loop: each connection sends its next request once its last one is answered. Open loop: requests are due at a
fixed rate whatever the server does, and a request's latency counts from the moment when it was due, also while it
waited for a free connection: a server that stalls cannot slow its own examiner down.

One thread, plain sockets and the system's own poll; requests are bytes made beforehand. A request of 17 kB costs some
0.03 ms of CPU, half of it the kernel's, so that on a machine that the server shares little is taken from it.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httptools
import numpy as np

from proj.serve.traffic import BROKEN, UNANSWERED, Result

SEND_BUFFER = 1 << 18
RECEIVED = 1 << 18
CONNECT_S = 5.0
AGAIN_S = 0.02  # before another try to connect
ASK_S = 0.2
RETRY_AFTER = b"retry-after"
FILES_BESIDE = 64  # open files that are no connections


def run(
    url: str,
    requests: Sequence[bytes],
    *,
    connections: int,
    seconds: float,
    rate: float = 0.0,
    warm_s: float = 0.0,
    patience_s: float = 30.0,
    count: int = 0,
    until: Callable[[], bool] | None = None,
    on_sent: Callable[[], object] | None = None,
) -> Result:
    """Send `requests` in turn over as many `connections` for `warm_s` + `seconds`; the warm-up is not counted.

    `rate`: requests a second of an open loop; 0 is the closed loop. `count`: no more than so many are sent. `until` is
    asked a few times a second whether to end early; `on_sent` is called when the last request has been sent. Answers
    still due then are waited for, `patience_s` at the most. Raises OSError when there is no server at the start.
    """
    with _room_for(connections):
        return _Run(url, requests, connections, seconds, rate, warm_s, patience_s, count, until, on_sent).measure()


@contextlib.contextmanager
def _room_for(connections: int) -> Iterator[None]:
    """Raise the soft limit of open files while it runs, as far as it may be."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + FILES_BESIDE
    if wanted > soft != resource.RLIM_INFINITY:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@dataclass(slots=True, eq=False)
class _Connection:
    """`due` is None while it is free, `rest` what the system has not yet taken of a request."""

    sock: socket.socket
    due: float | None = None
    rest: memoryview | None = None
    whole: bool = False
    last: bool = False  # the server closes after this answer
    retry_after: bool = False
    parser: Any = field(init=False)

    def __post_init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)

    def on_header(self, name: bytes, _: bytes) -> None:
        """Called by the parser, like the next."""
        if len(name) == len(RETRY_AFTER) and name.lower() == RETRY_AFTER:
            self.retry_after = True

    def on_message_complete(self) -> None:
        self.whole = True
        self.last = not self.parser.should_keep_alive()  # which the parser forgets at once


class _Run:
    def __init__(
        self, url: str, requests: Sequence[bytes], connections: int, seconds: float, rate: float, warm_s: float,
        patience_s: float, count: int, until: Callable[[], bool] | None, on_sent: Callable[[], object] | None,
    ) -> None:  # fmt: skip
        parts = urlsplit(url)
        self.address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self.requests, self.connections, self.seconds, self.rate = requests, connections, seconds, rate
        self.warm_s, self.patience_s, self.count = warm_s, patience_s, count or float("inf")
        self.until, self.on_sent = until, on_sent
        self.poll = selectors.DefaultSelector()
        self.received = memoryview(bytearray(RECEIVED))
        self.free: deque[_Connection] = deque()
        self.lost: deque[float] = deque()  # when to connect again, for each connection that is no more
        self.waiting: deque[float] = deque()  # when each request was due for which no connection was free
        self.due, self.ended, self.status = array("d"), array("d"), array("h")
        self.sent = self.busy = self.retry_after = 0
        self.over = False

    def measure(self) -> Result:
        try:
            for _ in range(self.connections):
                self.free.append(self._connect())
            cpu, start = time.process_time(), time.perf_counter()
            end = self._load(start)
            if self.on_sent is not None:
                self.on_sent()
            self._wait(end + self.patience_s)
            self._give_up()
            if self.sent >= self.count:
                end = max(self.ended)
            return self._result(start + self.warm_s, end, time.process_time() - cpu)
        finally:
            for key in list(self.poll.get_map().values()):
                key.data.sock.close()
            self.poll.close()

    def _load(self, start: float) -> float:
        """Send and receive until the time is over; returns when it was."""
        end = start + self.warm_s + self.seconds
        step, ask_at, due, now = 1 / self.rate if self.rate else 0.0, start, start, start
        while now < end and self.sent < self.count:
            if now >= ask_at:
                if self.until is not None and self.until():
                    break
                ask_at = now + ASK_S
            while step and due <= now:
                self.waiting.append(due)
                due += step
            self._connect_again(now)
            self._send_due(now)
            self._receive_all(min(end, ask_at, due if step else end) - now)
            now = time.perf_counter()
        self.over = True
        return now

    def _send_due(self, now: float) -> None:
        while self.free and self.sent < self.count:
            if not self.rate:
                self._send(self.free.popleft(), now)
            elif self.waiting:
                self._send(self.free.popleft(), self.waiting.popleft())
            else:
                return

    def _wait(self, until: float) -> None:
        """Until all that was due has been answered, or the time given is over."""
        while (self.busy or self.waiting) and (now := time.perf_counter()) < until:
            if self.waiting:
                self._connect_again(now)
                self._send_due(now)
            self._receive_all(min(until - now, ASK_S))

    def _receive_all(self, pause_s: float) -> None:
        for key, events in self.poll.select(max(0.0, pause_s)):
            if events & selectors.EVENT_READ:
                self._receive(key.data)
            else:
                self._write(key.data)

    def _connect(self) -> _Connection:
        sock = socket.create_connection(self.address, CONNECT_S)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        connection = _Connection(sock)
        self.poll.register(sock, selectors.EVENT_READ, connection)
        return connection

    def _connect_again(self, now: float) -> None:
        while self.lost and self.lost[0] <= now:
            self.lost.popleft()
            try:
                self.free.append(self._connect())
            except OSError:
                self.lost.append(now + AGAIN_S)

    def _send(self, c: _Connection, due: float) -> None:
        request = self.requests[self.sent % len(self.requests)]
        self.sent += 1
        self.busy += 1
        c.due, c.whole, c.retry_after = due, False, False
        try:
            n = c.sock.send(request)
        except BlockingIOError:
            n = 0
        except OSError:
            self._lose(c)
            return
        if n < len(request):
            c.rest = memoryview(request)[n:]
            self.poll.modify(c.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, c)

    def _write(self, c: _Connection) -> None:
        assert c.rest is not None
        try:
            c.rest = c.rest[c.sock.send(c.rest) :]
        except BlockingIOError:
            return
        except OSError:
            self._lose(c)
            return
        if not c.rest:
            c.rest = None
            self.poll.modify(c.sock, selectors.EVENT_READ, c)

    def _receive(self, c: _Connection) -> None:
        try:
            n = c.sock.recv_into(self.received)
            if not n:
                self._lose(c)
                return
            c.parser.feed_data(self.received[:n])
        except BlockingIOError:
            return
        except (OSError, httptools.HttpParserError):
            self._lose(c)
            return
        if not c.whole or c.due is None:
            return
        status = c.parser.get_status_code()
        self.retry_after += status == 503 and c.retry_after
        now = time.perf_counter()
        self._note(c.due, now, status)
        c.due = None
        if c.rest is not None or c.last:
            self._lose(c)  # answered before it was all sent, or the last answer on this connection
        elif self.rate or self.over or self.sent >= self.count:
            self.free.append(c)
        else:
            self._send(c, now)

    def _note(self, due: float, ended: float, status: int) -> None:
        self.busy -= 1
        self.due.append(due)
        self.ended.append(ended)
        self.status.append(status)

    def _lose(self, c: _Connection) -> None:
        """Drop a connection; its request, if it had one, is broken."""
        now = time.perf_counter()
        self.poll.unregister(c.sock)
        c.sock.close()
        if c.due is None:
            with contextlib.suppress(ValueError):
                self.free.remove(c)
            self.lost.append(now)
        else:
            self._note(c.due, now, BROKEN)
            self.lost.append(now + AGAIN_S)

    def _give_up(self) -> None:
        """Note what was never answered, and in an open loop what was never sent."""
        now = time.perf_counter()
        for key in self.poll.get_map().values():
            if key.data.due is not None:
                self._note(key.data.due, now, UNANSWERED)
        self.busy += len(self.waiting)
        for due in self.waiting:
            self._note(due, now, UNANSWERED)

    def _result(self, start: float, end: float, cpu_s: float) -> Result:
        due, ended = np.frombuffer(self.due) - start, np.frombuffer(self.ended) - start
        counted = ended >= 0
        status = np.frombuffer(self.status, np.int16)[counted]
        share = float(counted.mean()) if len(counted) else 0.0
        return Result(max(end - start, 1e-9), due[counted], ended[counted], status, self.retry_after, cpu_s * share)
