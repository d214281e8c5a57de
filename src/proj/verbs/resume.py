"""`proj train --resume`: a run that was stopped or killed goes on, and ends in the weights it would have had."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loguru import logger

from proj import console, runs
from proj.data import prepare
from proj.data.store import Prepared
from proj.errors import RunNotFound, UsageError
from proj.project import Project
from proj.runs import Record
from proj.verbs import job as jobs
from proj.verbs.job import Job

Work = Callable[[Job, Prepared, Path, Record, bool], dict[str, Any]]  # as in verbs/train.py
MAY_CHANGE = ("trainer.max_epochs", "trainer.device", "track.kind", "track.project")


@dataclass(frozen=True)
class Resumed:
    """`content` is its metrics.json's."""

    run: Path
    content: dict[str, Any]


def resume(run: Path, project: Project, overrides: list[str], work: Work) -> Resumed:
    """Go on from the run's newest checkpoint, in its own directory. `work` does all that a run has not yet.

    Raises UsageError (a finished run without more epochs, overrides that would make it another run), RunNotFound,
    DataError (its data have changed), ResourceError (another process has it).
    """
    words = _allowed(overrides)
    record = runs.read(run)
    if record.status == "finished" and "trainer.max_epochs" not in map(_key, words):
        raise UsageError(
            f"{record.run} is finished",
            next=f"trainer.max_epochs=N trains it on; `proj evaluate {record.run}` scores it",
        )
    with runs.lock(run), console.log_to_file(run / "train.log"):
        job = jobs.of_run(run, project, words)
        prepared = prepare.prepare(job.task, job.cfg, project.data, fast=record.fast)
        jobs.same_data(prepared, run, record)
        record.status, record.error = "running", ""
        record.notes.append(f"went on at {runs.now()}" + (f" with {' '.join(words)}" if words else ""))
        runs.write(run, record)
        logger.info("run {} goes on", run)
        return Resumed(run, work(job, prepared, run, record, record.fast))


def _allowed(overrides: list[str]) -> list[str]:
    """Single values; `track=wandb` is `track.kind=wandb`. Raises UsageError for what would make it another run."""
    words = [f"track.kind={w.partition('=')[2]}" if _key(w) == "track" else w for w in overrides]
    odd = [w for w in words if _key(w) not in MAY_CHANGE]
    if odd:
        raise UsageError(
            f"`proj train --resume` cannot change {_key(odd[0])}",
            found="a run that goes on is the run that it was",
            next=f"only {', '.join(MAY_CHANGE)} may change; without --resume a new run begins",
        )
    return words


def find(ref: str, models: Path) -> Path:
    """A run directory, a run's name, or a task's name: its newest run that is not finished. Raises RunNotFound."""
    if (Path(ref) / "run.json").is_file():
        return Path(ref)
    named = [(f, r) for f, r in runs.every(models) if ref in {r.run, r.task}]
    for folder, record in named:
        if record.run == ref or record.status != "finished":
            return folder
    raise RunNotFound(
        f"no unfinished run is called {ref!r}",
        found=f"{len(named)} of that task, all finished" if named else f"{len(runs.every(models))} runs under {models}",
        next="`proj train` begins one",
    )


def named(ref: str, job: Job, overrides: list[str], work: Work, *, fast: bool = False) -> Resumed | None:
    """Go on with what `ref` names. `auto`: the newest run that these very overrides began; None where there is none.

    `auto` leaves alone a --fast run unless `fast`, and any other if so: a model of one batch is another model.
    So one command can be given again and again until the run is finished, as a machine that may go at any time does.
    """
    models = job.project.models
    if ref != "auto":
        return resume(find(ref, models), job.project, overrides, work)
    wanted = _identity(overrides)
    for folder, record in runs.every(models, job.task.name):
        if _identity(record.overrides) != wanted or record.trial or record.fast != fast:
            continue
        if record.status == "finished":
            logger.info("{} is finished: nothing to do", folder)
            return Resumed(folder, runs.read_json(folder / "metrics.json", {}))
        return resume(folder, job.project, [w for w in overrides if _key(w) in (*MAY_CHANGE, "track")], work)
    logger.info("no run of {} was begun with these settings: a new one begins", job.task.name)
    return None


def _identity(overrides: list[str]) -> list[str]:
    return sorted(w for w in overrides if _key(w) not in (*MAY_CHANGE, "track"))


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+")
