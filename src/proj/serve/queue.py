"""The bounded queue between HTTP and the model: one thread takes up to `max_batch` waiting inputs at a time.

The event loop only puts inputs in and waits; decode, run and encode, each a function of `infer`, happen in
the thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from proj import infer
from proj.errors import Busy, InputError

if TYPE_CHECKING:
    from proj.serve.metrics import Metrics
    from proj.serve.settings import Settings
    from proj.serve.upload import Input

Answer = dict[str, Any]
Outcome = Answer | InputError


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    input: Input
    future: asyncio.Future[Outcome]
    loop: asyncio.AbstractEventLoop


class Queue:
    """Holds at most `settings.queue_size` waiting inputs."""

    def __init__(self, model: infer.Model, settings: Settings, metrics: Metrics) -> None:
        self.model, self.settings, self.metrics = model, settings, metrics
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="proj-answers", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Answer what waits, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def check_room(self, inputs: int = 1) -> None:
        """Raise Busy when `inputs` more do not fit."""
        if len(self._waiting) + inputs > self.settings.queue_size:
            raise Busy("the queue is full", found=f"{self.settings.queue_size} inputs are waiting", next="try again")

    async def answers(self, inputs: Sequence[Input]) -> list[Outcome]:
        """Each input's answer in order, or why it cannot be read. Raises Busy at once when full."""
        loop = asyncio.get_running_loop()
        jobs = [_Job(i, loop.create_future(), loop) for i in inputs]
        with self._changed:
            self.check_room(len(jobs))
            self._waiting.extend(jobs)
            self._changed.notify()
        self.metrics.queue_depth(len(self._waiting))
        return list(await asyncio.gather(*(job.future for job in jobs)))

    def _work(self) -> None:
        while jobs := self._take():
            self.metrics.queue_depth(len(self._waiting))
            try:
                outcomes: list[Outcome | Exception] = list(self._answer(jobs))
            except Exception as e:  # whatever the model raises is this batch's own fault: the thread must go on
                outcomes = [e] * len(jobs)
            for job, outcome in zip(jobs, outcomes, strict=True):
                job.loop.call_soon_threadsafe(_settle, job.future, outcome)

    def _take(self) -> list[_Job]:
        """Wait for inputs and take up to `max_batch`; none means closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            n = min(len(self._waiting), self.settings.max_batch)
            return [self._waiting.popleft() for _ in range(n)]

    def _answer(self, jobs: Sequence[_Job]) -> list[Outcome]:
        decoded = [self._decode(job.input) for job in jobs]
        good = [x for x in decoded if not isinstance(x, InputError)]
        self.metrics.batch(len(good), len(jobs) - len(good))
        rows = iter(infer.run(self.model, infer.batch(good)) if good else ())
        outcomes: list[Outcome] = []
        for job, x in zip(jobs, decoded, strict=True):
            if isinstance(x, InputError):
                outcomes.append(x)
                continue
            answer = infer.encode(self.model, next(rows), job.input.name)
            self.metrics.answer(answer)
            outcomes.append(answer)
        return outcomes

    def _decode(self, item: Input) -> infer.Array | InputError:
        try:
            if isinstance(item.content, InputError):
                return item.content
            if isinstance(item.content, bytes) and not item.content:
                raise InputError("the file is empty", found="0 bytes")
            return infer.decode(self.model, item.content, max_pixels=self.settings.max_pixels)
        except InputError as e:
            return e


def _settle(future: asyncio.Future[Outcome], outcome: Outcome | Exception) -> None:
    if future.done():  # its request was cancelled
        return
    if isinstance(outcome, Exception) and not isinstance(outcome, InputError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
