"""Starts the server's other processes: by fork where that is safe, so that they share the modules' memory.

A child that held the supervisor's ends of its brothers' pipes would hide the supervisor's death from them: it closes
all of these first.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

STOP_SIGNALS = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, n)]
GROUPS = [getattr(signal, n) for n in ("SIGINT", "SIGHUP") if hasattr(signal, n)]
THREADS = Path("/proc/self/task")
COMMAND = Path("/proc/self/comm")  # what ps and top call a process


class Closable(Protocol):
    def close(self) -> None: ...


@dataclass(eq=False)
class Child:
    """A process, and the supervisor's end of the pipe to it."""

    process: BaseProcess
    pipe: Connection
    quiet: bool = False  # it has closed its end

    def say(self, *message: Any) -> None:
        """Send a tuple; nothing happens where nobody reads any more."""
        with contextlib.suppress(OSError):
            self.pipe.send(message)

    def heard(self) -> Iterator[tuple[Any, ...]]:
        """What it has said since, without waiting."""
        try:
            while self.pipe.poll():
                yield self.pipe.recv()
        except (EOFError, OSError):
            self.quiet = True

    def waited_for(self) -> list[Any]:
        """What becomes readable when it says something, or ends."""
        return [self.process.sentinel] if self.quiet else [self.process.sentinel, self.pipe]


class Children:
    """All of them. `also` is what else is open here, and closed in a child that is not handed it."""

    def __init__(self, *also: Closable) -> None:
        self.open: list[Closable] = list(also)

    def start(self, target: Callable[..., None], *args: Any, name: str) -> Child:
        """Run `target(*args, pipe)` in a process of its own."""
        method = _method()
        context: Any = multiprocessing.get_context(method)
        ours, theirs = context.Pipe()
        self.open.append(ours)
        closed = [o for o in self.open if all(o is not a for a in args)] if method == "fork" else []
        process = context.Process(target=_run, args=(name, closed, target, (*args, theirs)), name=name, daemon=True)
        gc.freeze()  # what is there now is not looked through again: the pages stay shared
        with _signals_wait():
            process.start()
        theirs.close()  # so that the child alone holds it, and either side sees the other's end
        return Child(process, ours)

    def bury(self, child: Child, *, kill: bool = False) -> int | None:
        """Forget one that has ended, or is to end now. Returns its exit code."""
        if kill:
            child.process.kill()
        child.process.join()
        code = child.process.exitcode
        self.open.remove(child.pipe)
        child.pipe.close()
        child.process.close()
        return code


def _method() -> str:
    """A process of one thread can be forked safely, and Linux does it well."""
    if not sys.platform.startswith("linux"):
        return "spawn"
    with contextlib.suppress(OSError):
        if sum(1 for _ in THREADS.iterdir()) > 1:
            return "spawn"
    return "fork"


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """A signal that came to a child before it has its own ways would run the supervisor's."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run(name: str, closed: list[Closable], target: Callable[..., None], args: tuple[Any, ...]) -> None:
    with contextlib.suppress(OSError):
        COMMAND.write_text(name)
    for each in closed:
        each.close()
    for number in STOP_SIGNALS:
        # Ctrl+C and a terminal that closes reach the whole group; the supervisor tells its children.
        signal.signal(number, signal.SIG_IGN if number in GROUPS else signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    target(*args)


def ending(code: int | None) -> str:
    """How a process ended, for a reader."""
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            name = signal.Signals(-code).name
            return f"{name}, perhaps for lack of memory" if name == "SIGKILL" else name
    return f"exit code {code}"


def die_first() -> None:
    """Where memory runs out, let Linux end this process before the workers."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def give_way(by: int) -> None:
    """Let the workers have the processor first."""
    if hasattr(os, "nice"):
        os.nice(by)
