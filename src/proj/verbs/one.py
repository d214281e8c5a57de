"""A training on the split that prepare decided: train, evaluate, export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from loguru import logger

from proj.verbs.stages import keeper, stage

if TYPE_CHECKING:
    from proj.data.store import Prepared
    from proj.runs import Record
    from proj.verbs.job import Job


def one(job: Job, prepared: Prepared, run: Path, record: Record, fast: bool) -> dict[str, Any]:
    """Train, evaluate and export on the split that prepare decided; goes on where the run was."""
    logger.info("loading torch")
    from proj.train import evaluate, export, fit, inputs, memory, settle, setup

    memory.keep_freed()
    cfg, cache = job.cfg, job.project.data / "features"
    view = (
        inputs.of_run(prepared, cfg.model, run, cache) if inputs.kept(run) else inputs.view(prepared, cfg.model, cache)
    )
    inputs.keep(view, run)
    with stage(record, "train"):
        record.device = settle.kind(cfg)
        net = fit.fit(cfg, view, run, cache=cache, fast=fast, settled=keeper(job, run))
    with stage(record, "evaluate"):
        features = setup.frozen_features(cfg, net, view, cache)
        tested = evaluate.assess(net, job.task, cfg, view, run, fast=fast, features=features)
    with stage(record, "export"):
        export.export(net, job.task, cfg, view, run, tested)
    return tested.content
