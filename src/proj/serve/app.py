"""The HTTP application on the models that are served: what every request goes through, and the routes.

The routes that answer inputs are plain functions, called before FastAPI's layers, which cost more than they do;
all others are FastAPI's (see `api`), which is built once the models are there. /openapi.json describes both.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

from loguru import logger

from proj.errors import ProjError
from proj.serve import answer, cores, problems, protocol, v2
from proj.serve import head as heads
from proj.serve.body import Body, Uploads
from proj.serve.connection import Connection, HungUp
from proj.serve.guard import Guard
from proj.serve.log import Log
from proj.serve.metrics import HUNG_UP
from proj.serve.queue import Queue
from proj.serve.reply import Headers, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fastapi import FastAPI
    from starlette.types import Message, Receive, Scope, Send

    from proj.serve.board import Board
    from proj.serve.head import Head
    from proj.serve.metrics import Metrics
    from proj.serve.settings import Settings
    from proj.serve.slots import Slot, Slots

OTHER = "other"  # the route of what has none
SWEEP_S = 1.0  # how often connections are looked at whose head does not come


class App:
    """`draining = True` turns /ready to 503. `build` makes FastAPI's part, as `api.build` does."""

    def __init__(
        self, slots: Slots, settings: Settings, threads: int, shared: Board, metrics: Metrics, folder: Path, index: int,
        build: Callable[[App], FastAPI],
    ) -> None:  # fmt: skip
        self.slots, self.settings, self.metrics, self.board = slots, settings, metrics, shared
        self.queue = Queue(settings, threads, metrics, shared, cores.pins(settings, index))
        self.guard = Guard(settings, folder, index)
        self.uploads = Uploads(shared, settings.uploads_bytes)
        self.requests_log = Log(settings)
        self.draining = False
        self.hot = _hot_paths(slots)
        self._build = build
        self._api: FastAPI | None = None
        self._building = threading.Lock()

    @property
    def is_bare(self) -> bool:
        """Is FastAPI's part still to be made?"""
        return self._api is None

    @property
    def is_ready(self) -> bool:
        """May requests be sent? Not while a model is missing or the server is stopping."""
        return not self.draining and all(slot.model is not None for slot in self.slots.values())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever comes."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        start_s = time.perf_counter()
        head = heads.read(scope)
        call = _Call(self, head, scope, receive, send, self.requests_log.request_id(head))
        try:
            await call.answer()
        except HungUp:
            call.status = HUNG_UP  # nobody is left to read an answer
        finally:
            seconds = time.perf_counter() - start_s
            self.metrics.request(call.route, call.status, seconds)
            who = self.guard.who(head) if self.requests_log.json else ""
            self.requests_log.request(call.id, head, call.route, call.status, seconds, who, call.model)
            if call.status == 503 and call.connection is not None:
                call.connection.breathe()

    def refused(self, status: int, client: str) -> None:
        """Count what the protocol refuses: what is no HTTP, no whole request, or a connection too many."""
        self.metrics.request(OTHER, status, 0.0)
        self.requests_log.request("", heads.Head("", "", b"", client, {}), OTHER, status, 0.0, client)

    def api(self) -> FastAPI:
        """FastAPI's part; the first call makes it, in some tenths of a second. For several threads."""
        with self._building:
            if self._api is None:
                self._api = self._build(self)
            return self._api

    async def _live(self, receive: Receive, send: Send) -> None:
        """From the server's start to its end, as ASGI has it."""
        await receive()
        self.queue.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await asyncio.to_thread(self.queue.close)
        await send({"type": "lifespan.shutdown.complete"})


class _Call:
    """One request on its way."""

    __slots__ = ("app", "connection", "head", "id", "model", "more", "receive", "route", "scope", "send", "status")

    def __init__(self, app: App, head: Head, scope: Scope, receive: Receive, send: Send, id: str) -> None:
        self.app, self.head, self.scope, self.receive, self.send, self.id = app, head, scope, receive, send, id
        self.route, self.status, self.model = OTHER, 500, ""
        self.more: Headers = ()
        self.connection: protocol.Http | None = scope.get("state", {}).get(protocol.STATE)

    async def answer(self) -> None:
        more = self.app.guard.response_headers(self.head)
        self.more = [*more, (b"x-request-id", self.id.encode("latin-1"))]
        connection, path = self.connection, self.head.path
        if path in self.app.hot:
            self.route = "/predict" if path == "/predict" else "/{name}/predict"
        elif v2.is_path(path):
            self.route = v2.pattern(path) or OTHER
        if connection is not None and connection.full:
            await self.busy_server()
            return
        refused = self.app.guard.refusal(self.head)
        if refused is not None:
            if refused.status == 204:
                await self.reply(Reply(204, headers=problems.raw(refused.headers)))
            else:
                await self.problem(refused.status, refused.detail, refused.headers)
            return
        try:
            made = await self.hot(connection.asker if connection is not None else Connection())
        except HungUp:
            raise
        except ProjError as e:
            await self.reply(problems.of(e, self.head.path, self.id))
        except Exception as e:
            await self.bug(e)
        else:
            if made is None:
                await self.cold()
            else:
                await self.reply(made)

    async def hot(self, asker: Connection) -> Reply | None:
        """The answer of a route that is a plain function; None where FastAPI has it."""
        app, head = self.app, self.head
        slot = app.hot.get(head.path)
        if slot is not None:
            if head.method != "POST":
                detail = f"{head.method} is not possible on {head.path}; POST is"
                return problems.reply(head.path, 405, detail, {"allow": "POST"}, self.id)
            with self.body() as body:
                made = await answer.predict(slot, head, body, asker, app.queue, app.settings)
            self.model = slot.manifest.model
            return made
        if v2.is_path(head.path):
            with self.body() as body:
                made, self.model = await v2.answer(app, head, body, asker)
            return made
        return None

    @contextlib.contextmanager
    def body(self) -> Iterator[Body]:
        app, is_there = self.app, self.connection is not None and self.connection.is_whole
        body = Body(self.receive, self.head, app.settings, app.uploads, is_there=is_there)
        try:
            yield body
        finally:
            body.release()

    async def cold(self) -> None:
        """By FastAPI, with the headers of every answer."""
        wants_head = self.head.method == "HEAD"
        # A copy: uvicorn's own tells it that no body comes. Without Range, which a server may ignore (RFC 9110 14.2):
        # Starlette answers a broken one with plain text.
        headers = [h for h in self.scope["headers"] if h[0] != b"range"]
        scope = {**self.scope, "method": "GET" if wants_head else self.head.method, "headers": headers}
        scope.setdefault("state", {})[problems.REQUEST_ID] = self.id
        api = await asyncio.to_thread(self.app.api) if self.app.is_bare else self.app.api()
        started = False

        async def send(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started, self.status = True, message["status"]
                message["headers"] = [*message.get("headers", ()), *self.more]
            elif wants_head:
                message = {**message, "body": b""}
            await self.send(message)

        try:
            await api(scope, self.receive, send)
        except HungUp:
            raise
        except Exception as e:
            if started:
                raise
            await self.bug(e)
        finally:
            # The route's own pattern, never the path: labels must not grow with what strangers ask for.
            self.route = getattr(scope.get("route"), "path", OTHER)

    async def reply(self, made: Reply) -> None:
        self.status = made.status
        await made.send(self.send, self.more, head_only=self.head.method == "HEAD")

    async def problem(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        if v2.is_path(self.head.path):
            await self.reply(v2.error(status, detail, headers))
        else:
            await self.reply(problems.reply(self.head.path, status, detail, headers, self.id))

    async def busy_server(self) -> None:
        await self.problem(503, "the server has too many connections", {"connection": "close"})

    async def bug(self, error: Exception) -> None:
        # As text: tracebacks with the variables' values would show people's pictures.
        trace = "".join(traceback.format_exception(error))
        logger.error("request {} ended with a fault: {}\n{}", self.id, type(error).__name__, trace)
        await self.reply(problems.bug(self.head.path, self.id))


def _hot_paths(slots: Slots) -> dict[str, Slot]:
    """Where inputs are answered: /NAME/predict, and /predict where there is one model."""
    paths = {f"/{name}/predict": slot for name, slot in slots.items()}
    if len(slots) == 1:
        paths["/predict"] = next(iter(slots.values()))
    return paths


async def sweep(connections: set[Any]) -> None:
    """Cut off, for ever, the connections whose request's head does not come."""
    while True:
        await asyncio.sleep(SWEEP_S)
        now_s = time.monotonic()
        for connection in list(connections):
            connection.cut_off_if_late(now_s)
