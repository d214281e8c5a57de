"""Holds the socket and the worker processes, and replaces those that die, even when there is only one.

The socket is bound once, here: while a worker is replaced, connections wait in it instead of being refused.
"""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from loguru import logger

from proj import infer
from proj.bundle import Manifest
from proj.errors import ConfigError, ResourceError
from proj.serve import worker
from proj.serve.guard import is_loopback
from proj.serve.settings import Settings

BACKLOG = 2048
MAX_FAILED_STARTS = 3
GRACE_S = 5.0  # what a worker may take beyond its own time to stop before it is killed
STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")


def serve(bundle: Path, settings: Settings) -> int:
    """Serve `bundle` until a signal asks to stop. Call it from the main thread.

    Returns 0 when every request in flight was answered before the end, 1 when some were cut off. Raises
    BundleError (the bundle is refused), ResourceError (port in use, workers that cannot start), ConfigError
    (host not ours).
    """
    manifest = infer.load(bundle, threads=1).manifest
    with listen(settings) as sock, _metrics_folder() as folder, _Signals() as signals:
        return _Supervisor(bundle.resolve(), settings, manifest, sock, folder, signals).run()


@contextlib.contextmanager
def listen(settings: Settings) -> Iterator[socket.socket]:
    """A listening socket on host and port."""
    host, port = settings.host.strip("[]"), settings.port
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as e:
        raise ConfigError(
            f"host {host!r} is not an address", found=str(e), next="use --host 127.0.0.1 or 0.0.0.0"
        ) from None
    with socket.socket(family, kind, proto) as sock:
        try:
            # Windows's SO_REUSEADDR lets two servers share a port; elsewhere it only skips the wait after a
            # stop.
            exclusive = getattr(socket, "SO_EXCLUSIVEADDRUSE", None)
            sock.setsockopt(socket.SOL_SOCKET, exclusive or socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.listen(BACKLOG)
        except OSError as e:
            raise _cannot_bind(e, host, port) from None
        yield sock


def _cannot_bind(error: OSError, host: str, port: int) -> ResourceError | ConfigError | OSError:
    if error.errno in {errno.EADDRINUSE, getattr(errno, "WSAEADDRINUSE", None)}:
        return ResourceError(
            f"port {port} on {host} is in use",
            found="another server, perhaps one of your own, listens there",
            next=f"stop it, or choose another: --port {port + 1 if port < 65535 else 8000}",
        )
    if error.errno == errno.EACCES:
        return ResourceError(
            f"port {port} may not be used",
            found=error.strerror or "",
            next="choose one above 1023: --port 8000",
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return ConfigError(
            f"host {host} is not an address of this machine", next="use --host 127.0.0.1, or 0.0.0.0 for all"
        )
    return error


@contextlib.contextmanager
def _metrics_folder() -> Iterator[str]:
    """A folder in which the workers share their metrics; "" where no place can be written."""
    places = [None, Path("/dev/shm")]  # a container's root may be read-only
    for place in places:
        try:
            temporary = tempfile.TemporaryDirectory(prefix="proj-metrics-", dir=place, ignore_cleanup_errors=True)
        except OSError:
            continue
        with temporary as folder:
            yield folder
        return
    logger.warning("no temporary folder can be written: /metrics shows one worker's numbers only")
    yield ""


class _Signals:
    """Turns stop signals into a pipe that can be waited on; counts them."""

    def __enter__(self) -> _Signals:
        self.count = 0
        self.reader, self._writer = Pipe(duplex=False)
        self._before = {}
        for name in STOP_SIGNALS:
            if number := getattr(signal, name, None):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self.reader.close()
        self._writer.close()

    def _note(self, *_: object) -> None:
        self.count += 1
        self._writer.send_bytes(b".")


@dataclass(eq=False)
class _Worker:
    """One place among the workers, and the process that holds it now."""

    process: SpawnProcess | None = None
    pipe: Connection | None = None
    ready: bool = False
    failed_starts: int = 0
    start_at: float = field(default_factory=time.monotonic)


class _Supervisor:
    def __init__(
        self, bundle: Path, settings: Settings, manifest: Manifest, sock: socket.socket, metrics_folder: str,
        signals: _Signals,
    ) -> None:  # fmt: skip
        self.bundle, self.settings, self.manifest = bundle, settings, manifest
        self.sock, self.metrics_folder, self.signals = sock, metrics_folder, signals
        self.spawn = multiprocessing.get_context("spawn")
        self.workers = [_Worker() for _ in range(settings.workers)]
        self.announced = False

    def run(self) -> int:
        try:
            while not self.signals.count:
                self._start_due()
                self._wait(self._seconds_to_next_start())
                for w in self.workers:
                    self._look_after(w)
                if not self.announced and all(w.ready for w in self.workers):
                    self._announce()
            return self._stop()
        finally:
            for w in self.workers:
                if w.process is not None and w.process.is_alive():
                    w.process.kill()

    def _start_due(self) -> None:
        for w in self.workers:
            if w.process is None and w.start_at <= time.monotonic():
                self._start(w)

    def _start(self, w: _Worker) -> None:
        w.pipe, theirs = self.spawn.Pipe()
        arguments = (self.bundle, self.settings, self.sock, theirs, self.metrics_folder)
        w.process = self.spawn.Process(target=worker.main, args=arguments, name="proj-worker", daemon=True)
        w.process.start()
        theirs.close()  # so that the worker alone holds it, and either side sees the other's end
        w.ready = False

    def _seconds_to_next_start(self) -> float | None:
        due = [w.start_at for w in self.workers if w.process is None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _wait(self, seconds: float | None) -> None:
        """Until a worker says something or ends, a signal comes, or the time is over."""
        watched: list[Any] = [self.signals.reader]
        for w in self.workers:
            if w.process is not None:
                watched.append(w.process.sentinel)
                if not w.ready and w.pipe is not None:
                    watched.append(w.pipe)
        wait(watched, seconds)

    def _look_after(self, w: _Worker) -> None:
        if w.process is None or w.pipe is None:
            return
        if not w.ready:
            with contextlib.suppress(EOFError, OSError):
                if w.pipe.poll() and w.pipe.recv_bytes() == worker.READY:
                    w.ready, w.failed_starts = True, 0
        if not w.process.is_alive():
            self._bury(w)

    def _bury(self, w: _Worker) -> None:
        assert w.process is not None
        assert w.pipe is not None
        code, pid, was_ready = w.process.exitcode, w.process.pid, w.ready
        w.pipe.close()
        self._forget_live_metrics(pid)
        w.process, w.pipe, w.ready = None, None, False
        if self.signals.count:
            return
        if was_ready:
            logger.warning("worker {} ended ({}): starting another", pid, _ending(code))
            w.start_at = time.monotonic()
            return
        w.failed_starts += 1
        if w.failed_starts >= MAX_FAILED_STARTS and not any(other.ready for other in self.workers):
            raise ResourceError(
                "the server's workers end before they are ready",
                found=f"the last one: {_ending(code)}",
                next="the lines above say why; with little memory, fewer --workers may help",
            )
        pause = min(0.5 * 2**w.failed_starts, 30.0)
        logger.warning("worker {} ended before it was ready ({}): next try in {:g} s", pid, _ending(code), pause)
        w.start_at = time.monotonic() + pause

    def _forget_live_metrics(self, pid: int | None) -> None:
        if self.metrics_folder:
            for path in Path(self.metrics_folder).glob(f"gauge_live*_{pid}.db"):
                path.unlink(missing_ok=True)

    def _announce(self) -> None:
        self.announced = True
        logger.info("{} at {} ({})", self.manifest.model, url(self.sock, self.settings), self._workers_in_words())
        if self.manifest.warning:
            logger.warning("{}", self.manifest.warning)
        if not is_loopback(self.settings.host) and not self.settings.allow_host:
            logger.info("reachable from other machines, under any name; `--allow-host NAME` narrows that")

    def _workers_in_words(self) -> str:
        n = len(self.workers)
        return "1 worker" if n == 1 else f"{n} workers"

    def _stop(self) -> int:
        """Tell the workers to finish, wait, and kill those that do not."""
        logger.info("stopping: requests in flight are finished first (a second signal ends at once)")
        self.sock.close()
        for w in self.workers:
            if w.pipe is not None:
                w.pipe.close()
        running = [w.process for w in self.workers if w.process is not None]
        deadline = time.monotonic() + self.settings.drain_s + self.settings.stop_s + GRACE_S
        self.signals.reader.recv_bytes()
        while alive := [p for p in running if p.is_alive()]:
            left = deadline - time.monotonic()
            if left <= 0 or self.signals.count > 1:
                for p in alive:
                    p.kill()
                    p.join()
                break
            wait([self.signals.reader, *(p.sentinel for p in alive)], left)
        cut_off = sum(p.exitcode != 0 for p in running)
        if cut_off:
            logger.warning("stopped; requests that were not finished in time were cut off")
            return 1
        logger.info("stopped")
        return 0


def url(sock: socket.socket, settings: Settings) -> str:
    """Where a browser on this machine finds the server."""
    host, port = settings.host.strip("[]"), sock.getsockname()[1]
    if host in {"0.0.0.0", "::"}:
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            name = signal.Signals(-code).name
            return f"{name}, perhaps for lack of memory" if name == "SIGKILL" else name
    return f"exit code {code}"
