"""While many inputs wait, answers of quick models reach the event loop several at a time; slow ones each at once."""

from __future__ import annotations

import asyncio
import time
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

INPUTS = 64


def wakings(folder: Path) -> tuple[list[Any], int]:
    """All outcomes, and how often the event loop was woken for them."""
    model = infer.load(make_bundle(folder / "b"))
    board.create(folder, 1)
    shared = board.Board(folder, 0)
    metrics = Metrics(shared, folder / "metrics", 0)
    metrics.served("b", model.manifest)
    queue = Queue(Settings.model_validate({"max_batch": 1}), 2, metrics, shared)
    woken = 0
    settle = queue._settle

    def counted() -> None:
        nonlocal woken
        woken += 1
        settle()

    queue._settle = counted  # type: ignore[method-assign]

    async def main() -> list[Any]:
        queue._loop = asyncio.get_running_loop()
        slot = Slot("b", model.manifest, model)
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
