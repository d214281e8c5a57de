"""The bounded queue between HTTP and the models: threads take inputs from it, decode, run and encode them.

The event loop only puts inputs in and is told of answers. Each thread takes one input, and more only where the engine
gains by batches: then at most its share of what waits, and it never waits for more. Decoding, the model and encoding
are functions of `infer`; the first two release the interpreter's lock, so that threads use several cores.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
from loguru import logger

from proj import infer
from proj.errors import Busy, InputError
from proj.serve import board, cores
from proj.serve.connection import HungUp
from proj.serve.line import Line

if TYPE_CHECKING:
    from proj.serve.board import Board
    from proj.serve.connection import Connection
    from proj.serve.metrics import Metrics
    from proj.serve.settings import Settings
    from proj.serve.slots import Slot
    from proj.serve.upload import Input

GATHER, GATHER_S = 32, 0.05  # at most so many answers are kept back, and none so long after its input was taken
Outcome = bytes | InputError  # an answer as JSON, or why its input cannot be read


@dataclass(slots=True, eq=False)
class Job:
    """One input, or a batch that came as a tensor (`input` is None), until it is answered."""

    slot: Slot
    input: Input | None
    x: infer.Array | None
    top: int
    due_s: float  # on time.monotonic's clock
    put_s: float
    asker: Connection
    future: asyncio.Future[Any]
    taken_s: float = 0.0
    outcome: Any = None

    @property
    def inputs(self) -> int:
        return 1 if self.x is None else len(self.x)


class Queue:
    """Holds at most `settings.queue_size` waiting inputs in all workers together.

    `pins` are the cores that its threads keep to, one each; none lets them run anywhere.
    """

    def __init__(
        self, settings: Settings, threads: int, metrics: Metrics, shared: Board, pins: Sequence[int] = ()
    ) -> None:
        self.settings, self.threads, self.metrics, self.board = settings, threads, metrics, shared
        self._jobs: Line[Job] = Line(functools.partial(shared.set, board.WAITING), lambda job: job.inputs)
        self._done: deque[Job] = deque()
        self._told = False  # has the event loop been told of what is in `_done`?
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads = [
            threading.Thread(target=self._work, args=(i, *pins[i : i + 1]), name=f"proj-answers-{i}", daemon=True)
            for i in range(threads)
        ]

    def start(self) -> None:
        """Call it on the event loop."""
        self._loop = asyncio.get_running_loop()
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Answer what waits, then end the threads."""
        self._jobs.close()
        for thread in self._threads:
            thread.join()

    def check_room(self, inputs: int = 1) -> None:
        """Raise Busy when `inputs` more do not fit."""
        if self.board.total(board.WAITING) + inputs > self.settings.queue_size:
            raise Busy("the queue is full", found=f"{self.settings.queue_size} inputs may wait", next="try again")

    async def answers(
        self, slot: Slot, inputs: Sequence[Input], *, top: int = 0, timeout_s: float = 0.0, asker: Connection
    ) -> list[Outcome]:
        """Each input's answer as JSON in order, or why it cannot be read.

        Raises Busy at once when the queue is full, and once the deadline or `timeout_s` is over.
        """
        now, due_s = self._admit(slot, len(inputs), timeout_s)
        jobs = [Job(slot, i, None, top, due_s, now, asker, self._future()) for i in inputs]
        return await self._answered(jobs)

    async def run(
        self, slot: Slot, x: infer.Array, *, timeout_s: float = 0.0, asker: Connection
    ) -> tuple[infer.Model, infer.Array]:
        """The model that ran and its output (B, names) for `x` (B, ...), as the graph takes it. Raises Busy."""
        now, due_s = self._admit(slot, len(x), timeout_s)
        made: list[tuple[infer.Model, infer.Array]] = await self._answered(
            [Job(slot, None, x, 0, due_s, now, asker, self._future())]
        )
        return made[0]

    async def _answered(self, jobs: Sequence[Job]) -> list[Any]:
        assert self._loop is not None
        timer = self._loop.call_later(jobs[0].due_s - jobs[0].put_s, self._give_up, jobs)
        try:
            for job in jobs:
                self._jobs.put(job)
            if len(jobs) == 1:
                return [await jobs[0].future]
            return list(await asyncio.gather(*(job.future for job in jobs)))
        finally:
            timer.cancel()

    def _give_up(self, jobs: Sequence[Job]) -> None:
        """Their deadline is over: nobody waits for them any more, whether or not a thread has them."""
        for job in jobs:
            self._jobs.remove(job)
            if not job.future.done():
                self._late(job)
        self._settle()  # they were perhaps what kept-back answers waited for

    def _late(self, job: Job) -> None:
        self.metrics.dropped("late")
        job.future.set_exception(Busy("the request waited too long", found="its deadline passed", next="try again"))

    def _admit(self, slot: Slot, inputs: int, timeout_s: float) -> tuple[float, float]:
        """Now, and until when the inputs may wait, on time.monotonic's clock. Raises Busy."""
        slot.take()
        self.check_room(inputs)
        now = time.monotonic()
        return now, now + min(timeout_s or self.settings.deadline_s, self.settings.deadline_s)

    def _future(self) -> asyncio.Future[Any]:
        assert self._loop is not None
        return self._loop.create_future()

    # ---- in the threads

    def _work(self, rank: int, core: int | None = None) -> None:
        cores.give_way()
        if core is not None:
            cores.keep_to(core)
        while jobs := self._take(rank):
            now = time.monotonic()
            wanted = [job for job in jobs if self._still_wanted(job, now)]
            for slot in dict.fromkeys(job.slot for job in wanted):
                self._answer(slot, [job for job in wanted if job.slot is slot])
            self._tell(jobs)
        self._wake()

    def _take(self, rank: int) -> list[Job]:
        """Wait for an input; none means closed."""
        first = self._jobs.take(rank)
        jobs = [first] if first is not None else []
        while jobs and len(jobs) < self._share(jobs[0]) and (job := self._jobs.take_now()) is not None:
            jobs.append(job)
        return jobs

    def _share(self, first: Job) -> int:
        model = first.slot.model
        return model.share(len(self._jobs), self.threads, self.settings.max_batch) if model else 1

    def _still_wanted(self, job: Job, now: float) -> bool:
        job.taken_s = now
        if job.asker.lost:
            self.metrics.dropped("gone")
            job.outcome = HungUp()
            return False
        return now <= job.due_s  # else its timer is about to ring, or has

    def _answer(self, slot: Slot, jobs: Sequence[Job]) -> None:
        try:
            model = slot.take()
            self._answer_inputs(model, [job for job in jobs if job.input is not None])
            for job in jobs:
                if job.x is not None:
                    self._run_tensor(model, job)
        except Exception as e:  # whatever the model raises is this batch's own fault: the thread must go on
            for job in jobs:
                if job.outcome is None:
                    job.outcome = e

    def _answer_inputs(self, model: infer.Model, jobs: Sequence[Job]) -> None:
        if not jobs:
            return
        start = time.monotonic()
        xs = [self._decode(model, job) for job in jobs]
        good = [(job, x) for job, x in zip(jobs, xs, strict=True) if x is not None]
        self.metrics.batch(jobs[0].slot.name, len(good), len(jobs) - len(good))
        if not good:
            return
        decoded = time.monotonic()
        y = infer.run(model, infer.batch([x for _, x in good]))
        ran = time.monotonic()
        for (job, _), row in zip(good, y, strict=True):
            assert job.input is not None
            answer = infer.encode(model, row, job.input.name, job.top)
            job.outcome = orjson.dumps(answer)
            self.metrics.answer(job.slot.name, model.manifest.kind, answer)
        ended = time.monotonic()
        for job in jobs:  # of a batch each waited through the whole of every part
            self.metrics.parts(job.slot.name, start - job.put_s, decoded - start, ran - decoded, ended - ran)

    def _decode(self, model: infer.Model, job: Job) -> infer.Array | None:
        assert job.input is not None
        content = job.input.content
        try:
            if isinstance(content, InputError):
                raise content
            if isinstance(content, bytes) and not content:
                raise InputError("the file is empty", found="0 bytes")
            return infer.decode(model, content, max_pixels=self.settings.max_pixels)
        except InputError as e:
            job.outcome = e
            return None

    def _run_tensor(self, model: infer.Model, job: Job) -> None:
        assert job.x is not None
        start = time.monotonic()
        y = infer.run(model, job.x)
        ended = time.monotonic()
        job.outcome = (model, y)
        self.metrics.batch(job.slot.name, len(job.x), 0)
        self.metrics.rows(job.slot.name, model.manifest, y)
        self.metrics.parts(job.slot.name, start - job.put_s, 0.0, ended - start, 0.0)

    def _tell(self, jobs: Sequence[Job]) -> None:
        """Hand the answers to the event loop: one call wakes it for all that is there by then."""
        self._done.extend(jobs)
        if not self._may_gather():
            self._wake()

    def _may_gather(self) -> bool:
        """Can the answers in `_done` wait for more of them? Each waking takes a core from a model that runs.

        Only while twice as many inputs wait, the first of them of the same kind: whoever takes it comes here again,
        soon, since models that take long are never waited for.
        """
        if len(self._done) >= min(GATHER, len(self._jobs) // 2):
            return False
        first = self._jobs.first
        try:
            kept = self._done[0]
            alike = first is not None and first.slot is kept.slot and first.input is not None
            return alike and time.monotonic() - kept.taken_s < GATHER_S
        except IndexError:  # the event loop has them by now
            return True

    def _wake(self) -> None:
        if not self._told:
            self._told = True
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._settle)

    # ---- on the event loop

    def _settle(self) -> None:
        self._told = False  # before the first look: what is added from here on calls again
        while self._done:
            job = self._done.popleft()
            if job.future.done():  # its request was cancelled, or its deadline passed
                continue
            outcome = job.outcome
            if outcome is None:
                self._late(job)
                continue
            if isinstance(outcome, Exception) and (job.input is None or not isinstance(outcome, InputError)):
                if not isinstance(outcome, Busy | HungUp):
                    logger.error("the model {} failed: {}", job.slot.name, type(outcome).__name__)
                job.future.set_exception(outcome)
            else:
                job.future.set_result(outcome)
