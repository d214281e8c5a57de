"""The process that holds the socket: it starts the others, replaces those that die, and exchanges models.

The socket is bound once, here: while a worker is replaced, connections wait in it instead of being refused. Nothing
that takes long or may crash is done here: bundles are copied, examined and loaded by children, hosts asked by another.
"""

from __future__ import annotations

import contextlib
import importlib
import signal
import socket
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Pipe, wait
from pathlib import Path

from loguru import logger

from proj import bundle
from proj.serve import cores, keys, sockets, stage
from proj.serve.children import STOP_SIGNALS, Children
from proj.serve.settings import Settings
from proj.serve.swap import Swaps
from proj.serve.watch import Source
from proj.serve.workers import Workers

GRACE_S = 5.0  # what a worker may take beyond its own time to stop before it is killed
# What a worker needs is imported here, before it is forked, and so shared. Nothing of it may start a thread. Not ONNX
# Runtime: one worker and this process took 13 MB more, and a worker's start was no faster. Not FastAPI's part for one
# worker: that imports it once it answers, 0.15 s later.
PRELOADED = (
    "proj.serve.worker", "proj.serve.app", "proj.serve.protocol", "uvicorn.protocols.http.httptools_impl",
    "uvicorn.lifespan.on", "uvicorn.loops.uvloop",
)  # fmt: skip
FOR_IMAGES = ("cv2", "simplejpeg")
FOR_SEVERAL = ("proj.serve.api",)


def serve(sources: Mapping[str, Source], settings: Settings, work: Callable[..., None]) -> int:
    """Serve what each name stands for until a signal asks to stop. Call it from the main thread.

    `work` is what a worker process does: see `workers.Workers`. Returns 0 when every request in flight was answered
    before the end, 1 when some were cut off. Raises BundleError (a bundle is refused), ResourceError (port in use,
    workers that cannot start), ConfigError (host not ours).
    """
    workers, threads = cores.shares(settings)
    settings = settings.model_copy(
        update={"workers": workers, "threads": threads, "uploads_mb": settings.uploads_bytes / 1e6}
    )
    if settings.keys:
        keys.read(Path(settings.keys))  # what is wrong with it is said now, and not by every worker
    sockets.allow_open_files(settings.connections)
    with _Signals() as signals, sockets.listen(settings) as sock, stage.folder() as folder:
        return _Supervisor(sources, settings, work, sock, folder, signals).run()


class _Signals:
    """Turns stop signals into a pipe that can be waited on; counts them."""

    def __enter__(self) -> _Signals:
        self.count = 0
        self.reader, self.writer = Pipe(duplex=False)
        # What is ignored stays so: nohup ignores SIGHUP.
        taken = [n for n in STOP_SIGNALS if signal.getsignal(n) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._note) for number in taken}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self.reader.close()
        self.writer.close()

    def _note(self, *_: object) -> None:
        self.count += 1
        self.writer.send_bytes(b".")


class _Supervisor:
    def __init__(
        self, sources: Mapping[str, Source], settings: Settings, work: Callable[..., None], sock: socket.socket,
        folder: Path, signals: _Signals,
    ) -> None:  # fmt: skip
        self.settings, self.sock, self.signals = settings, sock, signals
        self.children = Children(sock, signals.reader, signals.writer)
        self.swaps = Swaps(sources, settings, folder, self.children)
        self.swaps.begin()  # examined while this process imports what the workers need
        images = any(bundle.read(s.bundle).modality == "image" for s in sources.values())
        _preload(*(FOR_IMAGES if images else ()), *(FOR_SEVERAL if settings.workers > 1 else ()))
        self.workers = Workers(settings, sock, folder, self.children, work, self.swaps.served)
        self.announced = False

    def run(self) -> int:
        try:
            while not self.signals.count:
                if self.swaps.may_load:
                    self.workers.start_due()
                self._wait()
                self.swaps.tend(self.workers)
                for worker, message in self.workers.tend():
                    self.swaps.heard(worker, message, self.workers)
                if not self.announced and self.swaps.all_good and len(self.workers.ready) == len(self.workers.all):
                    self._announce()
            return self._stop()
        finally:
            self.swaps.stop()
            for w in self.workers.all:
                if w.child is not None and w.child.process.is_alive():
                    w.child.process.kill()
                    w.child.process.join()

    def _wait(self) -> None:
        """Until a child says something or ends, a signal comes, or something is due."""
        times = [self.swaps.next_time(), self.workers.next_start() if self.swaps.may_load else None]
        due = min((t for t in times if t is not None), default=None)
        readable = [self.signals.reader, *self.workers.waited_for(), *self.swaps.waited_for()]
        wait(readable, None if due is None else max(0.0, due - time.monotonic()))

    def _announce(self) -> None:
        self.announced = True
        slots, n = self.swaps.slots.values(), len(self.workers.all)
        models = ", ".join(slot.model for slot in slots)
        where = sockets.url(self.sock, self.settings)
        logger.info("{} at {} ({})", models, where, "1 worker" if n == 1 else f"{n} workers")
        for slot in slots:
            if slot.warning:
                logger.warning("{}{}", f"{slot.name}: " if len(slots) > 1 else "", slot.warning)
        from proj.serve.guard import is_loopback

        if not is_loopback(self.settings.host) and not self.settings.allow_host:
            logger.info("reachable from other machines, under any name; `--allow-host NAME` narrows that")

    def _stop(self) -> int:
        """Tell the workers to finish, wait, and kill those that do not."""
        logger.info("stopping: requests in flight are finished first (a second signal ends at once)")
        self.sock.close()
        self.swaps.stop()
        running = [child.process for child in self.workers.hang_up()]
        deadline = time.monotonic() + self.settings.drain_s + self.settings.stop_s + GRACE_S
        self.signals.reader.recv_bytes()
        while alive := [p for p in running if p.is_alive()]:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or self.signals.count > 1:
                for p in alive:
                    p.kill()
                    p.join()
                break
            wait([self.signals.reader, *(p.sentinel for p in alive)], left_s)
        if any(p.exitcode for p in running):
            logger.warning("stopped; requests that were not finished in time were cut off")
            return 1
        logger.info("stopped")
        return 0


def _preload(*more: str) -> None:
    for name in (*PRELOADED, *more):
        with contextlib.suppress(ImportError):  # uvloop and httptools are not everywhere
            importlib.import_module(name)
