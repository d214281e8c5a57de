"""The worker processes: started, listened to, replaced when they die."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loguru import logger

from proj.errors import ResourceError
from proj.serve import board, rate
from proj.serve.children import Child, Children, ending
from proj.serve.settings import Settings

MAX_FAILED_STARTS = 3
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0

Message = tuple[Any, ...]


@dataclass(eq=False)
class Worker:
    """One place among the workers, and the process that holds it now."""

    index: int
    child: Child | None = None
    ready: bool = False
    failed_starts: int = 0
    start_at: float = math.inf  # on time.monotonic's clock


class Workers:
    """All of them. `main` is what each runs, `served` tells which staged bundles a new one loads.

    The first says 503 until it has loaded the models, and the others start when it has: beside one that answers none
    says 503 to a client that the kernel happens to give it.
    """

    def __init__(
        self, settings: Settings, sock: socket.socket, folder: Path, children: Children,
        main: Callable[..., None], served: Callable[[], dict[str, Path]],
    ) -> None:  # fmt: skip
        self.settings, self.sock, self.folder, self.children = settings, sock, folder, children
        self.main, self.served = main, served
        self.all = [Worker(i) for i in range(settings.workers)]
        self.all[0].start_at = time.monotonic()
        self.have_been_ready = False
        board.create(folder, settings.workers)
        if settings.rate:
            rate.create(folder, settings.workers)

    @property
    def ready(self) -> list[Worker]:
        return [w for w in self.all if w.ready]

    def start_due(self) -> None:
        """Start those that have no process and have waited long enough."""
        for w in self.all:
            if w.child is None and w.start_at <= time.monotonic():
                early = not self.have_been_ready  # later, connections wait in the socket
                w.child = self.children.start(
                    self.main, self.served(), self.settings, self.sock, str(self.folder), w.index, early,
                    name="proj-worker",
                )  # fmt: skip

    def next_start(self) -> float | None:
        """When one is due, in the clock's seconds."""
        return min((w.start_at for w in self.all if w.child is None and w.start_at < math.inf), default=None)

    def waited_for(self) -> list[Any]:
        """What becomes readable when a worker says something, or ends."""
        return [x for w in self.all if w.child is not None for x in w.child.waited_for()]

    def tend(self) -> Iterator[tuple[Worker, Message]]:
        """What they have said since; ("ended",) for one that is no more, whose place is free again."""
        for w in self.all:
            if w.child is None:
                continue
            alive = w.child.process.is_alive()
            for message in w.child.heard():
                if message[0] == "ready":
                    w.ready, w.failed_starts = True, 0
                    self._have_one()
                yield w, message
            if not alive:
                self._bury(w)
                yield w, ("ended",)

    def tell(self, *message: Any) -> None:
        """Say something to all that are ready."""
        for w in self.ready:
            if w.child is not None:
                w.child.say(*message)

    def _have_one(self) -> None:
        if not self.have_been_ready:
            self.have_been_ready = True
            for w in self.all:
                w.start_at = min(w.start_at, time.monotonic())

    def _bury(self, w: Worker) -> None:
        assert w.child is not None
        pid, was_ready = w.child.process.pid, w.ready
        code = self.children.bury(w.child)
        board.clear(self.folder, w.index)
        w.child, w.ready = None, False
        if was_ready:
            logger.warning("worker {} ended ({}): starting another", pid, ending(code))
            w.start_at = time.monotonic()
            return
        w.failed_starts += 1
        if w.failed_starts >= MAX_FAILED_STARTS and not self.ready:
            raise ResourceError(
                "the server's workers end before they are ready",
                found=f"the last one: {ending(code)}",
                next="the lines above say why; with little memory, fewer --workers may help",
            )
        pause_s = min(FIRST_PAUSE_S * 2 ** (w.failed_starts - 1), LONGEST_PAUSE_S)
        logger.warning("worker {} ended before it was ready ({}): next try in {:g} s", pid, ending(code), pause_s)
        w.start_at = time.monotonic() + pause_s

    def hang_up(self) -> list[Child]:
        """Tell all to finish what they have and stop. Returns those that run."""
        running = [w.child for w in self.all if w.child is not None]
        for child in running:
            child.pipe.close()
        return running
