"""While many inputs wait, answers of quick models reach the event loop several at a time; slow ones each at once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from bundles import make_bundle
from serving import drawing

from proj import infer
from proj.serve import board
from proj.serve.connection import Connection
from proj.serve.metrics import Metrics
from proj.serve.queue import Queue
from proj.serve.settings import Settings
from proj.serve.slots import Slot
from proj.serve.upload import Input

INPUTS, BEHIND = 64, 8


def made(folder: Path, threads: int) -> tuple[Queue, Slot]:
    """A queue whose threads are still to be started, and the slot of its model."""
    model = infer.load(make_bundle(folder / "b"))
    board.create(folder, 1)
    shared = board.Board(folder, 0)
    metrics = Metrics(shared, folder / "metrics", 0)
    metrics.served("b", model.manifest)
    queue = Queue(Settings.model_validate({"max_batch": 1}), threads, metrics, shared)
    return queue, Slot("b", model.manifest, model)


def wakings(folder: Path) -> tuple[list[Any], int]:
    """All outcomes, and how often the event loop was woken for them."""
    queue, slot = made(folder, 2)
    woken = 0
    settle = queue._settle

    def counted() -> None:
        nonlocal woken
        woken += 1
        settle()

    queue._settle = counted  # type: ignore[method-assign]

    async def main() -> list[Any]:
        queue._loop = asyncio.get_running_loop()
        asked = [queue.answers(slot, [Input("a", drawing(i))], asker=Connection()) for i in range(INPUTS)]
        tasks = [asyncio.ensure_future(a) for a in asked]
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # all are put before the first is taken
        queue.start()
        outcomes = await asyncio.wait_for(asyncio.gather(*tasks), 30)
        await asyncio.to_thread(queue.close)
        return outcomes

    outcomes = asyncio.run(main())
    return outcomes, woken


def test_answers_of_a_quick_model_go_out_several_at_a_time(tmp_path: Path) -> None:
    outcomes, woken = wakings(tmp_path)
    assert all(isinstance(o[0], bytes) for o in outcomes)
    assert woken < INPUTS / 3


def test_no_answer_waits_for_a_slow_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = infer.decode

    def slowly(*args: Any, **kwargs: Any) -> Any:
        time.sleep(0.052)
        return decode(*args, **kwargs)

    monkeypatch.setattr(infer, "decode", slowly)
    outcomes, woken = wakings(tmp_path)
    assert len(outcomes) == INPUTS
    assert woken > INPUTS / 2  # two threads may end together


def first_answer_beside_one_that_hangs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, behind: Callable[[Queue, Slot], Awaitable[Any]]
) -> list[Any]:
    """One thread answers one input at once; in the next, which `behind` asked, it hangs until that answer is there."""
    queue, slot = made(folder, 1)
    go_on, calls = threading.Event(), 0
    run = infer.run

    def hanging(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            go_on.wait(30)
        return run(*args)

    monkeypatch.setattr(infer, "run", hanging)

    async def main() -> list[Any]:
        queue._loop = asyncio.get_running_loop()
        first = asyncio.ensure_future(queue.answers(slot, [Input("a", drawing(0))], asker=Connection()))
        await asyncio.sleep(0)
        others = [asyncio.ensure_future(behind(queue, slot)) for _ in range(BEHIND)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # all are put before the first is taken
        queue.start()
        try:
            return await asyncio.wait_for(first, 5)
        finally:
            go_on.set()
            await asyncio.gather(*others, return_exceptions=True)
            await asyncio.to_thread(queue.close)

    return asyncio.run(main())


def test_no_answer_waits_for_the_next_input_of_another_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def of_another(queue: Queue, slot: Slot) -> Any:
        other = Slot(slot.name, slot.manifest, slot.model)
        return await queue.answers(other, [Input("b", drawing(1))], asker=Connection())

    assert isinstance(first_answer_beside_one_that_hangs(tmp_path, monkeypatch, of_another)[0], bytes)


def test_no_answer_waits_for_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def tensor(queue: Queue, slot: Slot) -> Any:
        model = slot.take()
        return await queue.run(slot, model.manifest.example.array(), asker=Connection())

    assert isinstance(first_answer_beside_one_that_hangs(tmp_path, monkeypatch, tensor)[0], bytes)


def test_no_answer_waits_for_inputs_that_were_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hurried(queue: Queue, slot: Slot) -> Any:
        return await queue.answers(slot, [Input("b", drawing(1))], timeout_s=0.3, asker=Connection())

    assert isinstance(first_answer_beside_one_that_hangs(tmp_path, monkeypatch, hurried)[0], bytes)
