"""How one version takes another's place: checked, loaded by every worker beside the old one, then answering in all.

Whatever goes wrong before the last step leaves the old version where it is.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loguru import logger

from proj.errors import BundleError
from proj.serve import check, families, slots, stage, tallies
from proj.serve.children import Child, Children, ending
from proj.serve.settings import Settings
from proj.serve.slots import FIRST
from proj.serve.watch import SETTLE_S, Asker, Source, Watcher

if TYPE_CHECKING:
    from proj.serve.workers import Message, Worker, Workers

MOST_DEATHS = 3  # workers that end while they load a version, before it is refused


@dataclass(eq=False)
class Slot:
    """A name that is served, and the staged copy of its version; `model` is name@version."""

    name: str
    place: int
    watcher: Watcher
    staged: Path
    model: str = ""
    warning: str | None = None
    last_id: int = FIRST


@dataclass(eq=False)
class Change:
    """The next version of a slot, on its way. `child` examines it; after that the workers load it."""

    slot: Slot
    id: int
    staged: Path
    source: Path
    child: Child | None
    until: float
    verdict: Message | None = None
    model: str = ""
    warning: str | None = None
    loaded: set[int] = field(default_factory=set)
    deaths: int = 0


class Swaps:
    """The versions that are served, and at most one that is to be next."""

    def __init__(self, sources: Mapping[str, Source], settings: Settings, folder: Path, children: Children) -> None:
        self.settings, self.folder, self.children = settings, folder, children
        self.slots = {
            name: Slot(name, i, Watcher(s), folder / f"{name}.{FIRST}") for i, (name, s) in enumerate(sources.items())
        }
        self.ids = slots.create(folder, len(self.slots))
        self.counted = tallies.Tallies(folder / tallies.FOLDER, "swaps")
        for name in self.slots:
            self._count(name, "ok", 0)
        self.asker = Asker({name: slot.watcher for name, slot in self.slots.items()}, children)
        self.change: Change | None = None
        self.safe: set[str] = set()
        self.good: set[str] = set()
        self._first: Child | None = None
        self._first_until = self._next_look = 0.0

    def served(self) -> dict[str, Path]:
        """Staged bundles by name."""
        return {name: slot.staged for name, slot in self.slots.items()}

    @property
    def may_load(self) -> bool:
        """Is nothing in the first versions that could do harm?"""
        return len(self.safe) == len(self.slots)

    @property
    def all_good(self) -> bool:
        return len(self.good) == len(self.slots)

    def begin(self) -> None:
        """Have the first versions examined, all in one process."""
        jobs = [check.Job(s.name, s.watcher.bundle, s.staged) for s in self.slots.values()]
        self._first = self._examine(jobs)
        self._first_until = time.monotonic() + check.PATIENCE_S

    def _examine(self, jobs: list[check.Job]) -> Child:
        return self.children.start(check.main, jobs, self.settings, self.settings.workers, name="proj-check")

    def waited_for(self) -> list[Any]:
        """What becomes readable when there is something to do for `tend`."""
        childs = [self._first, self.asker.child, self.change.child if self.change else None]
        return [x for c in childs if c is not None for x in c.waited_for()]

    def next_time(self) -> float | None:
        """When `tend` is due, in the clock's seconds."""
        times = [self._first_until] if self._first is not None else []
        if self.change is not None:
            times.append(self.change.until)
        elif self.all_good and self.settings.watch_s:
            times.append(self._next_look)
        return min(times, default=None)

    def tend(self, workers: Workers) -> None:
        """Do what is due. Raises BundleError for a first version that is refused."""
        if self._first is not None:
            self._tend_first(self._first)
        if self.change is not None:
            self._tend_change(self.change, workers)
        self.asker.hear()
        if self.all_good and self.settings.watch_s and time.monotonic() >= self._next_look:
            self._look()

    def stop(self) -> None:
        """End what examines or asks."""
        for child in (self._first, self.change.child if self.change else None):
            if child is not None:
                self.children.bury(child, kill=True)
        self._first, self.change = None, None
        self.asker.stop()

    def _tend_first(self, child: Child) -> None:
        alive = child.process.is_alive()
        for word, name, *said in child.heard():
            slot = self.slots[name]
            if word == "refused":
                raise BundleError(said[1])
            if word == "changed":
                raise BundleError(f"{slot.watcher.bundle} changed while it was read", next="start again")
            slot.model, slot.warning = said
            (self.safe if word == "safe" else self.good).add(name)
        late = time.monotonic() >= self._first_until
        if alive and not late:
            return
        self._first = None
        code = self.children.bury(child, kill=alive)
        if not self.all_good:
            name = next(n for n in self.slots if n not in self.good)
            how = "it took too long" if late else f"the process that loaded it ended: {ending(code)}"
            raise BundleError(f"{self.slots[name].watcher.bundle} cannot be loaded", found=how)

    def _look(self) -> None:
        self.asker.ask()
        settling = False
        for slot in self.slots.values():
            if self.change is None and (source := slot.watcher.look()) is not None:
                self._try(slot, source)
            settling |= slot.watcher.settling
        pause_s = min(SETTLE_S, self.settings.watch_s) if settling else self.settings.watch_s
        self._next_look = time.monotonic() + pause_s

    def _try(self, slot: Slot, source: Path) -> None:
        slot.last_id += 1
        staged = self.folder / f"{slot.name}.{slot.last_id}"
        child = self._examine([check.Job(slot.name, source, staged, slot.staged)])
        self.change = Change(slot, slot.last_id, staged, source, child, time.monotonic() + check.PATIENCE_S)

    def _tend_change(self, change: Change, workers: Workers) -> None:
        late = time.monotonic() >= change.until
        if change.child is None:
            if late:
                self._give_up_on_loading(change, workers)
            return
        alive = change.child.process.is_alive()
        for message in change.child.heard():
            if message[0] != "safe":
                change.verdict = message
        if alive and not late:  # once it has ended, its memory is free for the workers
            return
        code = self.children.bury(change.child, kill=alive)
        change.child, verdict = None, change.verdict
        if verdict is None:
            slug, why = ("timeout", "it took too long") if late else ("crash", f"loading it ended in {ending(code)}")
            self._refuse(change, slug, why, workers)
        elif verdict[0] == "good":
            change.model, change.warning = verdict[2:]
            change.until = time.monotonic() + check.PATIENCE_S
            workers.tell("load", change.slot.name, change.id, str(change.staged))
        elif verdict[0] == "changed":
            self._drop(change)
            change.slot.watcher.again()
        else:
            self._refuse(change, verdict[2], verdict[3], workers)

    def heard(self, worker: Worker, message: Message, workers: Workers) -> None:
        """Take what a worker said, or that it ended."""
        change = self.change
        if change is None or change.child is not None:
            return
        match message:
            case ("ready",) if worker.child is not None:  # it took a dead one's place, with the old version
                worker.child.say("load", change.slot.name, change.id, str(change.staged))
            case ("loaded", change.slot.name, change.id):
                change.loaded.add(worker.index)
            case ("failed", change.slot.name, change.id, why):
                self._refuse(change, "crash", str(why), workers)
                return
            case ("ended",):
                change.deaths += worker.index not in change.loaded
                change.loaded.discard(worker.index)
                if change.deaths >= MOST_DEATHS:
                    self._refuse(change, "crash", f"{change.deaths} workers ended while they loaded it", workers)
                    return
        if len(change.loaded) == len(workers.all):
            self._switch(change, workers)

    def _switch(self, change: Change, workers: Workers) -> None:
        slot = change.slot
        self.ids[slot.place] = change.id  # this is the switch, in all workers
        workers.tell("switched", slot.name)
        stage.drop(slot.staged)
        logger.info("{}: {} takes the place of {}", slot.name, change.model, slot.model)
        if change.warning:
            logger.warning("{}", change.warning)
        self._count(slot.name, "ok")
        slot.staged, slot.model, slot.warning = change.staged, change.model, change.warning
        slot.watcher.took()
        self.change = None

    def _give_up_on_loading(self, change: Change, workers: Workers) -> None:
        for w in workers.ready:
            if w.index not in change.loaded and w.child is not None:
                w.child.process.kill()  # whatever it hangs in, it would not hear of anything else
        self._refuse(change, "timeout", "a worker took too long to load it", workers)

    def _refuse(self, change: Change, slug: str, why: str, workers: Workers) -> None:
        name = change.slot.name
        workers.tell("forget", name, change.id)
        self._count(name, slug)
        logger.warning("{}: {} is refused ({}): {}; {} stays", name, change.source, slug, why, change.slot.model)
        self._drop(change)

    def _drop(self, change: Change) -> None:
        stage.drop(change.staged)
        self.change = None

    def _count(self, name: str, result: str, times: int = 1) -> None:
        """A newer version was taken ("ok") or refused (the reason's slug)."""
        numbers, at = self.counted.series(families.SWAPS, (name, result))
        numbers[at] += times
