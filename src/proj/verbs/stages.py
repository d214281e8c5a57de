"""What every training does around and between its stages."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from loguru import logger

from proj import config, runs
from proj.errors import Unreachable

if TYPE_CHECKING:
    from proj.runs import Record
    from proj.verbs.job import Job


def keeper(job: Job, run: Path) -> Callable[[], None]:
    """What writes the config into the run: once as it was composed, once more when all of it is settled."""

    def keep() -> None:
        text = yaml.safe_dump(config.to_dict(job.cfg), sort_keys=False)
        tmp = run / "config.tmp"
        tmp.write_text(text, encoding="utf-8")
        os.replace(tmp, run / "config.yaml")

    return keep


@contextmanager
def stage(record: Record, name: str) -> Iterator[None]:
    """Time it; a stage that was begun before adds to what it took then."""
    start = time.monotonic()
    try:
        yield
    finally:
        record.seconds[name] = round(record.seconds.get(name, 0.0) + time.monotonic() - start, 2)


def begun(run: Path) -> bool:
    """Has the run a checkpoint to go on from?"""
    return any(run.glob("checkpoints/*.ckpt")) or any(run.glob("folds/*/checkpoints/*.ckpt"))


@contextmanager
def status(run: Path, record: Record) -> Iterator[None]:
    """Leave run.json with how it ended, whatever ends it; and say how an unfinished run goes on."""
    try:
        yield
    except BaseException as e:
        record.status, record.error = "failed", str(e) or type(e).__name__
        if begun(run):
            logger.info("`proj train --resume {}` goes on from the last checkpoint", record.run)
        raise
    else:
        record.status = "finished"
    finally:
        record.ended = runs.now()
        runs.write(run, record)


@contextmanager
def without_hub(job: Job) -> Iterator[None]:
    """An unreachable hub is no dead end: say what this task can be trained with instead."""
    try:
        yield
    except Unreachable as e:
        instead = f"or train without a hub: `proj train task={job.task.name} {job.task.offline}`"
        raise Unreachable(e.what, found=e.found, next=", ".join(filter(None, [e.next, instead]))) from None
