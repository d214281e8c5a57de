"""`proj evaluate` and `proj export`: a run's best checkpoint, scored again or made into a bundle again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loguru import logger

from proj import console, runs
from proj.data import prepare, store
from proj.errors import CheckFailed, UsageError
from proj.project import Project
from proj.verbs.job import Job, of_run, same_data


def evaluate(run: Path, project: Project, overrides: list[str] | None = None) -> dict[str, Any]:
    """Score the run on its held-back test split; rewrites metrics.json, predictions.npz and report.html.

    With `data.source=OTHER` among the overrides every row of that source is scored, and the score added to the run's
    report; what the run itself reached stays as it is.
    """
    from proj.report import run as report

    job, prepared = _open(run, project)
    other = _other(run, project, overrides or [])
    with runs.lock(run), console.log_to_file(run / "train.log"):
        content = _elsewhere(job, prepared, run, other) if other else _again(job, prepared, run)
        report.write(run, prepared.folder)
    return content


def _again(job: Job, prepared: store.Prepared, run: Path) -> dict[str, Any]:
    from proj.train import evaluate as score

    net, view = _net(job, prepared, run)
    return score.assess(net, job.task, job.cfg, view, run, fast=runs.read(run).fast).content


def _elsewhere(job: Job, prepared: store.Prepared, run: Path, other: Job) -> dict[str, Any]:
    from proj.train import evaluate as score
    from proj.train import inputs

    record = runs.read(run)
    theirs = prepare.prepare(other.task, other.cfg, job.project.data, fast=record.fast, known=prepared.meta.names)
    if theirs.meta.manifest_hash == prepared.meta.manifest_hash:
        raise UsageError(
            f"{theirs.meta.source} is what {run.name} was trained on",
            next=f"`proj evaluate {run.name}` scores it on the rows held back from that",
        )
    if theirs.meta.names != prepared.meta.names or theirs.meta.preprocess != prepared.meta.preprocess:
        raise UsageError("that source is not read as the run's own was", next="give data.source alone")
    n, odd = len(theirs.y), sum(theirs.meta.unknown.values())
    logger.info("data: {} rows of {}{}", n, theirs.meta.source, f", {odd} of unknown classes left out" if odd else "")
    net, view = _net(job, prepared, run)
    score.calibrated(net, job.cfg, view)
    there = inputs.elsewhere(theirs, view, job.cfg.model, job.project.data / "features")
    return score.elsewhere(net, job.task, there, run, fast=record.fast)


def _other(run: Path, project: Project, overrides: list[str]) -> Job | None:
    """The run's job on another source; None where no override asks for one."""
    odd = [o for o in overrides if not o.startswith("data.")]
    if odd:
        raise UsageError(
            f"`proj evaluate` cannot change {odd[0].split('=')[0]}",
            found="a run's model and its settings are what they are",
            next="data.source=OTHER scores it on another source",
        )
    return of_run(run, project, overrides) if overrides else None


def export(run: Path, project: Project) -> Path:
    """Make the run's bundle again, checked against torch on the test split."""
    job, prepared = _open(run, project)
    from proj.train import evaluate as score
    from proj.train import export as exporter

    with runs.lock(run), console.log_to_file(run / "train.log"):
        net, view = _net(job, prepared, run)
        rows = view.test[: score.BATCH] if runs.read(run).fast else view.test
        content = runs.read_json(run / "metrics.json", None)
        if content is None:
            raise CheckFailed(f"{run / 'metrics.json'} is missing", next=f"`proj evaluate {run.name}` writes it")
        score.calibrated(net, job.cfg, view)
        tested = score.Assessment(rows, score.answers(net, view, rows), content)
        return exporter.export(net, job.task, job.cfg, view, run, tested)


def _open(run: Path, project: Project) -> tuple[Job, store.Prepared]:
    """The run's job and the very data it was trained on."""
    record = runs.read(run)
    if record.folds:
        raise UsageError(
            f"{run.name} is a cross-validation: it has no single model",
            next=f"its scores are in {run / 'report.html'}",
        )
    job = of_run(run, project)
    prepared = prepare.prepare(job.task, job.cfg, project.data, fast=record.fast)
    same_data(prepared, run, record)
    logger.info("data: {}", prepared.folder)
    return job, prepared


def _net(job: Job, prepared: store.Prepared, run: Path) -> tuple[Any, Any]:
    """The run's best network, in evaluation mode, and the view that it was trained on."""
    from proj.train import fit, inputs, memory, net

    memory.keep_freed()
    view = inputs.of_run(prepared, job.cfg.model, run, job.project.data / "features")
    made = net.of_run(job.cfg.model, view, run)
    fit.load_checkpoint(made, run / "checkpoints" / "best.ckpt")
    return made.eval(), view
