"""`proj evaluate` and `proj export`: a run's best checkpoint, scored again or made into a bundle again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loguru import logger

from proj import console, runs
from proj.data import prepare, store
from proj.errors import DataError, UsageError
from proj.project import Project
from proj.verbs.job import Job, of_run


def evaluate(run: Path, project: Project) -> dict[str, Any]:
    """Score the run on its held-back test split; rewrites metrics.json, predictions.npz and report.html."""
    job, prepared = _open(run, project)
    from proj.report import run as report
    from proj.train import data as train_data
    from proj.train import evaluate as score

    view = train_data.view(prepared)
    with runs.lock(run), console.log_to_file(run / "train.log"):
        rows = view.test[: score.BATCH] if runs.read(run).fast else view.test
        prob = score.probabilities(_net(job, view, run), prepared, rows)
        content = score.scores(prob, prepared.y[rows], prepared.meta.names)
        content["baseline"] = score.baseline(prepared.y[view.train], prepared.y[rows], view.outputs)
        whole = score.write(run, prepared, rows, prob, content)
        report.write(run, prepared.folder)
    return whole


def export(run: Path, project: Project) -> Path:
    """Make the run's bundle again, checked against torch on the test split."""
    job, prepared = _open(run, project)
    from proj.train import data as train_data
    from proj.train import evaluate as score
    from proj.train import export as exporter

    view = train_data.view(prepared)
    with runs.lock(run), console.log_to_file(run / "train.log"):
        rows = view.test[: score.BATCH] if runs.read(run).fast else view.test
        net = _net(job, view, run)
        prob = score.probabilities(net, prepared, rows)
        metrics = score.scores(prob, prepared.y[rows], prepared.meta.names)["metrics"]
        return exporter.export(net, job.task, job.cfg, prepared, run, rows, prob, metrics)


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
    if prepared.meta.data_hash != record.data_hash:
        raise DataError(
            f"the data of {run.name} have changed since it was trained",
            found=f"{prepared.meta.source} now has hash {prepared.meta.data_hash[:12]}, then {record.data_hash[:12]}",
            next="bring the old data back (`dvc checkout`), or train anew: `proj train`",
        )
    logger.info("data: {}", prepared.folder)
    return job, prepared


def _net(job: Job, view: Any, run: Path) -> Any:
    from dataclasses import replace

    from proj.train import fit, memory
    from proj.train.net import Net

    memory.keep_freed()
    # The checkpoint holds every weight: neither the hub nor model.weights is asked again.
    bare = replace(job.cfg.model, pretrained=False, weights="")
    net = Net(bare, view.shape, view.outputs, view.mean, view.std)
    fit.load_checkpoint(net, run / "checkpoints" / "best.ckpt")
    return net.eval()
