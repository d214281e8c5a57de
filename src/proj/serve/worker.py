"""One worker process: the models, the application, and uvicorn on the socket that the supervisor holds.

The supervisor speaks to it through a pipe, in tuples: ("load", name, id, folder), ("switched", name),
("forget", name, id); the pipe's end (the supervisor is stopping, or gone, however it died)
tells it to finish what it has and stop. The worker says ("ready",), ("loaded", name, id), ("failed", name, id, reason).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from loguru import logger

from proj import bundle, infer
from proj.errors import ProjError
from proj.serve import board, cores, slots, tallies

if TYPE_CHECKING:
    from fastapi import FastAPI

    from proj.serve.app import App
    from proj.serve.settings import Settings
    from proj.serve.slots import Slots

SWITCH_S = 1e-4  # after which a thread back from a model gets Python's lock from an event loop that is in a burst
KEEP_ALIVE_S = 75  # longer than load balancers keep an idle connection
WARM_UP_RUNS = 2  # the first calls of a session allocate what later ones use again
LAST_CALL_S = 1.0  # for connections that were made before the server was told to stop


class _Server(uvicorn.Server):
    """uvicorn's server that leaves signals to the worker and looks after slow connections."""

    def __init__(self, config: uvicorn.Config, on_start: Any, shared: board.Board, workers: int) -> None:
        super().__init__(config)
        self.on_start, self.shared, self.workers = on_start, shared, workers
        self.cut_off = False  # were requests still running when the time to stop was over?
        self._sweep: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        from proj.serve.app import sweep

        if sockets and sys.platform != "win32":  # whose loop cannot watch a socket so
            await super().startup([])
            self.servers.append(self._acceptor(sockets[0]))
        else:
            await super().startup(sockets)
        self._sweep = asyncio.create_task(sweep(self.server_state.connections))
        self.on_start()

    def _acceptor(self, sock: socket.socket) -> Any:
        from proj.serve.accept import Acceptor

        def make() -> asyncio.Protocol:
            protocol: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            )
            return protocol

        return Acceptor(sock, make, self.shared, self.workers)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
        start = time.monotonic()
        await self._take_what_came(sockets or [])
        await super().shutdown(sockets)
        self.cut_off = time.monotonic() - start >= (self.config.timeout_graceful_shutdown or 0)

    async def _take_what_came(self, sockets: list[socket.socket]) -> None:
        """Accept the connections that wait in the socket: closing it would reset them."""
        end = time.monotonic() + LAST_CALL_S
        while select.select(sockets, [], [], 0)[0] and time.monotonic() < end:
            await asyncio.sleep(0.005)


class _Pipe:
    """The pipe to the supervisor, for several threads."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe, self._lock = pipe, threading.Lock()

    def say(self, *message: Any) -> None:
        with self._lock, contextlib.suppress(OSError):  # the supervisor is gone; who reads the pipe sees to that
            self.pipe.send(message)

    def hear(self) -> tuple[Any, ...] | None:
        """None at its end."""
        try:
            message: tuple[Any, ...] = self.pipe.recv()
        except (EOFError, OSError):
            return None
        return message


def main(
    served: dict[str, Path], settings: Settings, sock: socket.socket, pipe: Connection, folder: str, index: int,
    early: bool,
) -> None:  # fmt: skip
    """Serve until told to stop. Exits with 1 when a model cannot be loaded or requests were cut off.

    `served` are staged bundles by name, `folder` what the server's workers share, `index` which of them this is.
    With `early` it listens at once and refuses until its models are loaded; else it loads them first.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches the whole group; the supervisor tells the workers
    from proj.serve import log
    from proj.serve.app import App
    from proj.serve.metrics import Metrics

    log.install(settings)
    sys.setswitchinterval(SWITCH_S)
    shared = board.Board(Path(folder), index)
    threads = cores.shares(settings)[1]
    said = _Pipe(pipe)
    try:
        ids = board.mapped(Path(folder) / slots.IDS)
        models: Slots = {
            name: slots.Slot(name, bundle.read(path), ids=ids, place=i) for i, (name, path) in enumerate(served.items())
        }
        metrics = Metrics(shared, Path(folder) / tallies.FOLDER, index)
        app = App(models, settings, threads, shared, metrics, Path(folder), index, _fastapi)
        if not early:
            _load_all(app, served)
            app.api()
    except ProjError as e:
        logger.error("{}", e)
        sys.exit(1)
    server = _Server(
        _config(app, settings, shared),
        lambda: _started(app, served, said, cores.loop_pin(settings, index), early=early),
        shared,
        cores.shares(settings)[0],
    )

    def leave() -> None:
        app.draining = True
        app.board.set(board.DRAINING, 1)
        time.sleep(settings.drain_s)
        server.should_exit = True

    came = 0

    def stop(*_: object) -> None:
        nonlocal came
        came += 1
        if came > 1:
            server.should_exit = True
        elif not app.draining:  # systemd tells every process of a group, this one before or after its supervisor does
            threading.Thread(target=leave, name="proj-leave", daemon=True).start()

    signal.signal(signal.SIGTERM, stop)
    threading.Thread(target=_obey, args=(app, said, settings, leave), name="proj-pipe", daemon=True).start()
    server.run(sockets=[sock])
    logger.complete()
    sys.exit(1 if server.cut_off else 0)


def _fastapi(app: App) -> FastAPI:
    from proj.serve import api  # here, because it takes long: see there

    return api.build(app)


def _config(app: App, settings: Settings, shared: board.Board) -> uvicorn.Config:
    from proj.serve.protocol import Http

    return uvicorn.Config(
        app,
        http=functools.partial(Http, shared=shared, settings=settings, refused=app.refused),  # type: ignore[arg-type]
        loop="auto",  # uvloop where the system has it
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(settings.stop_s)),
    )


def _settle_memory() -> None:
    """Take what is there for good out of the garbage collector's rounds, which would walk through all of it."""
    gc.collect()
    gc.freeze()


def _started(app: App, served: dict[str, Path], said: _Pipe, core: int | None, *, early: bool) -> None:
    """On the event loop, when connections are accepted. `core` is the one that it keeps to."""
    if early:
        _load_later(app, served, said)
    else:
        _settle_memory()
        said.say("ready")
    if core is not None:
        cores.keep_loop_to(core)  # after the thread that loads was started: it would keep to the same


def _load_later(app: App, served: dict[str, Path], said: _Pipe) -> None:
    def load() -> None:
        try:
            _load_all(app, served)
            app.api()
        except Exception as e:  # the process is of no use, and the supervisor must know
            logger.error("{}", e)
            os._exit(1)
        _settle_memory()
        said.say("ready")

    threading.Thread(target=load, name="proj-load", daemon=True).start()


def _load_all(app: App, served: dict[str, Path]) -> None:
    for name, path in served.items():
        app.slots[name].switch(_load(path, app.settings))
        app.metrics.served(name, app.slots[name].manifest)


def _load(folder: Path, settings: Settings) -> infer.Model:
    """Loaded, proved on its own example, and warm."""
    model = infer.load(
        folder, callers=cores.at_once(settings), engine=settings.engine, precision=settings.precision, checked=True
    )
    x = model.manifest.example.array()
    for _ in range(WARM_UP_RUNS):
        infer.run(model, x)
    return slots.told(model, settings)


def _obey(app: App, said: _Pipe, settings: Settings, leave: Callable[[], None]) -> None:
    """Do what the supervisor says until it hangs up, then leave."""
    cores.give_way()  # a newer model is loaded here
    while (message := said.hear()) is not None:
        word, name, *rest = message
        slot = app.slots[name]
        if word == "load":
            _load_beside(slot, int(rest[0]), str(rest[1]), settings, said)
        elif word == "switched":
            app.metrics.served(name, slot.manifest)
        elif word == "forget":
            slot.waiting.pop(rest[0], None)
    leave()


def _load_beside(slot: slots.Slot, id: int, folder: str, settings: Settings, said: _Pipe) -> None:
    try:
        slot.waiting[id] = _load(Path(folder), settings)
    except Exception as e:  # ONNX Runtime's own kinds too: the model that is served stays
        said.say("failed", slot.name, id, str(e))
    else:
        said.say("loaded", slot.name, id)
