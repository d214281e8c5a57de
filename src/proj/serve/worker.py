"""One worker process: a model, the application, and uvicorn on the socket that the supervisor holds.

The supervisor speaks to it through a pipe: the worker writes "ready"; anything that comes back, or the pipe's
end (the supervisor is gone, however it died), tells it to finish what it has and stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from proj.serve import guard, problems

if TYPE_CHECKING:
    from proj.serve.settings import Settings

READY = b"ready"
KEEP_ALIVE_S = 75  # longer than load balancers keep an idle connection


class _Server(uvicorn.Server):
    """uvicorn's server that says when it listens and leaves signals to the worker."""

    def __init__(self, config: uvicorn.Config, pipe: Connection) -> None:
        super().__init__(config)
        self.pipe = pipe
        self.cut_off = False  # were requests still running when the time to stop was over?

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        with contextlib.suppress(OSError):  # the supervisor is gone; the pipe's other thread sees to that
            self.pipe.send_bytes(READY)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        start = time.monotonic()
        await super().shutdown(sockets)
        self.cut_off = time.monotonic() - start >= (self.config.timeout_graceful_shutdown or 0)


class _Http(H11Protocol):
    """uvicorn's HTTP/1.1 that answers with a problem where what came is no HTTP."""

    def send_400_response(self, msg: str) -> None:
        content = json.dumps(problems.body("", 400, f"not an HTTP request: {msg}")).encode()
        headers = {
            "Content-Type": problems.MEDIA_TYPE,
            "Content-Length": str(len(content)),
            "Connection": "close",
            **guard.SECURITY_HEADERS,
        }
        start = h11.Response(status_code=400, headers=list(headers.items()), reason=b"Bad Request")
        for event in (start, h11.Data(data=content), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def main(bundle: Path, settings: Settings, sock: socket.socket, pipe: Connection, metrics_folder: str) -> None:
    """Serve until told to stop. Exits with 1 when the model cannot be loaded or requests were cut off."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches the whole group; the supervisor tells the workers
    if metrics_folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = metrics_folder  # read when prometheus_client is imported, below
    from proj import console, infer
    from proj.errors import ProjError
    from proj.serve import app as application

    console.log_to_stderr()
    _log_as_proj_does()
    try:
        model = infer.load(bundle, threads=settings.threads or max(1, cores() // settings.workers))
    except ProjError as e:
        from loguru import logger

        logger.error("{}", e)
        sys.exit(1)
    app = application.create(model, settings)
    server = _Server(_config(app, settings), pipe)

    def stop_now(*_: object) -> None:
        server.should_exit = True

    def stop_when_told() -> None:
        with contextlib.suppress(EOFError, OSError):
            pipe.recv_bytes()
        app.state.draining = True
        time.sleep(settings.drain_s)
        stop_now()

    signal.signal(signal.SIGTERM, stop_now)
    threading.Thread(target=stop_when_told, name="proj-stop", daemon=True).start()
    server.run(sockets=[sock])
    sys.exit(1 if server.cut_off else 0)


def _config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_Http,
        ws="none",
        lifespan="on",
        workers=settings.workers,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(settings.stop_s)),
    )


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _log_as_proj_does() -> None:
    """Send what uvicorn says (from WARNING up) to where loguru's lines go."""
    import logging

    from loguru import logger

    class ToLoguru(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError):
                return  # a request that was cut off when the server stopped: the supervisor says so
            # As text: loguru's own tracebacks show the variables' values, and those are people's pictures.
            trace = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else ""
            logger.log(record.levelname, "{}", f"{record.getMessage()}\n{trace}".strip())

    logging.basicConfig(handlers=[ToLoguru()], level=logging.WARNING, force=True)
