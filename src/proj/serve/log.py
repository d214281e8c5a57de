"""What the server says on stderr: lines for people, or JSON for machines with one line a request.

A line never holds a key, a body, a path or a query: the route's pattern stands for the path, a key's name for the key.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import re
import time
import traceback
from typing import TYPE_CHECKING, Any

import orjson
from loguru import logger

from proj import console

if TYPE_CHECKING:
    from proj.serve.head import Head
    from proj.serve.settings import Settings

STDERR = 2
GIVEN_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
BUSY_EVERY_S = 10.0  # how often a line for people says that requests are refused


def install(settings: Settings) -> None:
    """Send what this process says to stderr, in the form that `settings.log` names; uvicorn's warnings too."""
    if settings.log == "json":
        logger.remove()
        # Loguru's own tracebacks show the variables' values, and those are people's pictures and texts.
        logger.add(_as_json, format="{message}", level="INFO", backtrace=False, diagnose=False)
    else:
        console.log_to_stderr()
    logging.basicConfig(handlers=[_ToLoguru()], level=logging.WARNING, force=True)


class Log:
    """The lines of requests, and the name that each request has in them."""

    def __init__(self, settings: Settings) -> None:
        # Drawn once for each process and counted on: a draw a request would cost more than all else of its name.
        self._drawn, self._counted = os.urandom(6).hex(), itertools.count(int.from_bytes(os.urandom(3), "big"))
        self.json = settings.log == "json"
        self._clock = _Clock()
        self._busy = 0  # requests refused since the last line about them
        self._busy_said_s = float("-inf")

    def request_id(self, head: Head) -> str:
        """X-Request-ID where it is 1 to 128 letters, digits, dots, dashes; else a new one."""
        given = head.values.get(b"x-request-id")
        if given is not None and GIVEN_ID.fullmatch(given):
            return given.decode("ascii")
        return f"{self._drawn}{next(self._counted):08x}"

    def request(
        self, id: str, head: Head, route: str, status: int, seconds: float, who: str = "", model: str = ""
    ) -> None:
        """One line, where the form has one. `route` is a pattern, `who` what `Guard.who` says; no `id`: no head."""
        if self.json:
            key, _, client = who.rpartition("@")
            line = {
                "time": self._clock.now(),
                "level": "INFO" if status < 400 else "WARNING" if status < 500 or status == 503 else "ERROR",
                "message": "request",
                **({"request_id": id} if id else {}),
                "method": head.method,
                "route": route,
                "status": status,
                "ms": round(seconds * 1000, 3),
                "client": client,
            }
            if key:
                line["key"] = key
            if model:
                line["model"] = model
            _write(orjson.dumps(line))
        elif status == 503:
            self._refused(route)
        elif status >= 500:
            logger.error(
                "{} {} ended in {} after {:.0f} ms (request {})", head.method, route, status, seconds * 1000, id
            )

    def _refused(self, route: str) -> None:
        """Say now and then that there is too much to do: a line a request would only add to it."""
        if route == "/ready":
            return
        self._busy += 1
        now_s = time.monotonic()
        if now_s - self._busy_said_s >= BUSY_EVERY_S:
            said = "1 request was" if self._busy == 1 else f"{self._busy} requests were"
            logger.warning("{} answered 503 (not now)", said)
            self._busy, self._busy_said_s = 0, now_s


class _Clock:
    """UTC as text, its seconds written once a second."""

    def __init__(self) -> None:
        self._second, self._text = -1, ""

    def now(self) -> str:
        now_s = time.time()
        second = int(now_s)
        if second != self._second:
            self._second, self._text = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._text}.{int((now_s - second) * 1000):03d}Z"


def _write(line: bytes) -> None:
    with contextlib.suppress(OSError):  # nobody reads any more: no reason to fail a request
        os.write(STDERR, line + b"\n")  # one call: lines of several workers do not mix


def _as_json(message: Any) -> None:
    """loguru's sink."""
    record = message.record
    at = record["time"].timestamp()
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at % 1 * 1000):03d}Z",
        "level": record["level"].name,
        "message": record["message"],
    }
    if record["exception"] is not None:
        line["exception"] = "".join(traceback.format_exception(*record["exception"]))
    _write(orjson.dumps(line))


class _ToLoguru(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError):
            return  # a request that was cut off when the server stopped: the supervisor says so
        # As text: loguru's own tracebacks would show values.
        trace = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else ""
        logger.log(record.levelname, "{}", f"{record.getMessage()}\n{trace}".strip())
