"""What each RUN names, looked at again and again while it is served.

    a task's name, or nothing    the task's newest finished run with a bundle; never one older than what is served
    a run, a bundle's folder     the bundle there, when its files are others than before
    an address                   what `bundle_from_url` makes of it, asked by a process of its own

What is still being written is waited for: a folder counts once it stands still.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from loguru import logger

from proj import runs
from proj.errors import ProjError
from proj.serve import stage
from proj.serve.children import Child, Children

SETTLE_S = 0.3  # for so long nothing may change before a new bundle is tried
LONGEST_PAUSE_S = 60.0  # between questions to a host that does not answer


@dataclass(frozen=True)
class Source:
    """What one RUN names: `bundle` now, and perhaps a `task` whose newest run is meant, or an address.

    `task` is the folder of its runs, `cache` the one for bundles that come from addresses.
    """

    bundle: Path
    task: Path | None = None
    url: str = ""
    cache: Path = Path()


class Watcher:
    """Tells when the bundle that a source names is another one than has been tried."""

    def __init__(self, source: Source) -> None:
        self.source, self.bundle = source, source.bundle
        self._served = self._tried = stage.mark(source.bundle)
        self._seen: stage.Mark | None = None
        self._runs: dict[Path, int] = {}
        self._started = ""

    @property
    def settling(self) -> bool:
        """Has something changed that may still be written at? Then `look` again after SETTLE_S."""
        return self._seen is not None

    def look(self) -> Path | None:
        """A bundle's folder that is to be tried now; each state of it is returned once."""
        if self.source.task is not None:
            self._find_newest(self.source.task)
        now = stage.mark(self.bundle)
        if now is None or now in (self._tried, self._served):
            self._seen = None
            return None
        if now != self._seen:
            self._seen = now
            return None
        self._seen, self._tried = None, now
        return self.bundle

    def took(self) -> None:
        """What was tried last is served now."""
        self._served = self._tried

    def again(self) -> None:
        """What was tried last was not whole: try it once more when it stands still."""
        self._tried = self._served

    def _find_newest(self, task: Path) -> None:
        records = [p.parent.parent / "run.json" for p in task.glob("*/bundle/bundle.json")]
        there = {}
        for path in records:
            with contextlib.suppress(OSError):  # none yet, or one that is being removed
                there[path] = path.stat().st_mtime_ns
        if there == self._runs:
            return
        self._runs = there
        found = runs.newest(task.parent, task.name)
        if found is not None and found[1].started >= self._started:
            self.bundle, self._started = found[0] / "bundle", found[1].started


class Asker:
    """Asks the addresses among the sources, in a process that may wait for the network; it is started when needed."""

    def __init__(self, watchers: dict[str, Watcher], children: Children) -> None:
        self.watchers = {name: w for name, w in watchers.items() if w.source.url}
        self.children = children
        self.child: Child | None = None
        self._waiting: set[str] = set()
        self._pause_s: dict[str, float] = {}
        self._not_before: dict[str, float] = {}
        self._said: dict[str, str] = {}

    def ask(self) -> None:
        """Ask for each address of which no answer is awaited."""
        for name, watcher in self.watchers.items():
            if name in self._waiting or time.monotonic() < self._not_before.get(name, 0.0):
                continue
            if self.child is None:
                self.child = self.children.start(answer, name="proj-watch")
            self._waiting.add(name)
            self.child.say(name, watcher.source.url, watcher.source.cache)

    def hear(self) -> None:
        """Take the answers that have come."""
        if self.child is None:
            return
        for name, path, why in self.child.heard():
            self._waiting.discard(name)
            if path is not None:
                self.watchers[name].bundle = path
                self._pause_s.pop(name, None)
                self._said.pop(name, None)
                continue
            self._pause_s[name] = min(2 * self._pause_s.get(name, 1.0), LONGEST_PAUSE_S)
            self._not_before[name] = time.monotonic() + self._pause_s[name]
            if self._said.get(name) != why:
                logger.warning("{}: cannot look for a newer version: {}", name, why)
            self._said[name] = why
        if not self.child.process.is_alive():
            self.stop()

    def stop(self) -> None:
        if self.child is not None:
            self.children.bury(self.child, kill=True)
        self.child = None
        self._waiting.clear()


def answer(pipe: Connection) -> None:
    """Answer (name, url, cache) with (name, the folder that it is in now, "") or (name, None, why not)."""
    from proj.fetch.bundle_url import bundle_from_url

    with contextlib.suppress(EOFError, OSError):
        while True:
            name, url, cache = pipe.recv()
            try:
                pipe.send((name, bundle_from_url(url, cache), ""))
            except ProjError as e:
                pipe.send((name, None, str(e)))
