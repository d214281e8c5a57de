"""`proj train`: data → model → scores → bundle → report, in one run directory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from loguru import logger

from proj import console, provenance, runs
from proj.data import prepare, versions
from proj.data.store import Prepared
from proj.runs import Record
from proj.train import allocator
from proj.verbs import folds, one, stages, tables
from proj.verbs.job import Job


def train(job: Job, *, fast: bool, name: str = "", replace: bool = False) -> tuple[Path, dict[str, Any]]:
    """Returns the run directory and the content of its metrics.json. A run that fails says so in its run.json."""
    started = time.monotonic()
    prepared = prepare.prepare(job.task, job.cfg, job.project.data, fast=fast)
    versions.keep(job.project.root, job.project.data / "raw" / job.task.name)
    took = time.monotonic() - started
    n = {s: len(prepared.rows(s)) for s in ("train", "val", "test")}
    logger.info("data: {train} rows to train on, {val} to validate, {test} held back", **n)
    for split, lacking in () if fast else _lacking(prepared).items():
        logger.warning("no row of {} is in {}; data.split_seed=1 splits otherwise", ", ".join(lacking), split)
    record = _record(job, prepared, fast)
    run = runs.create(job.project.models, record, name=name, replace=replace)
    with runs.lock(run), console.log_to_file(run / "train.log"):
        logger.info("run {}", run)
        record.seconds["prepare"] = round(took, 2)
        _keep_provenance(job, run, record)
        return run, work(job, prepared, run, record, fast)


def work(job: Job, prepared: Prepared, run: Path, record: Record, fast: bool) -> dict[str, Any]:
    """All of a training that its run has not yet, its report included. Whoever calls holds the run's lock."""
    with stages.status(run, record), stages.without_hub(job):
        if job.cfg.tune != "off" and not stages.begun(run):
            tune(job, prepared, run)
        do = folds.folds if job.cfg.trainer.folds else one.one
        content = do(job, prepared, run, record, fast)
    from proj.report import run as report

    report.write(run, prepared.folder)
    return content


def tune(job: Job, prepared: Prepared, run: Path) -> None:
    """Set in the job's config what its `tune` asks for, by trying; what was found is in the run's tune.json.

    auto: the workers, and with trainer.deterministic=false also threads, precision and compilation, which change
    weights' bits; threads, precision, compile, workers: that one by name; lr: the rate at which the loss falls fastest;
    batch: the largest that fits. Timings are kept under data/tune. With folds it is tried on the split that prepare
    decided, for all of them.
    """
    from proj.train import finders, inputs, speed, trial

    cfg, data = job.cfg, job.project.data
    wanted, cfg.tune = cfg.tune, "off"
    view = inputs.view(prepared, cfg.model, data / "features")
    s = trial.begin(cfg, view, data / "features")
    if wanted == "lr":
        found = finders.lr(s, run)
    elif wanted == "batch":
        found = finders.batch(s, run)
    else:
        found = speed.fastest(cfg, s, wanted, data / "tune")
    for key, value in found["chosen"].items():
        section, _, leaf = key.partition(".")
        setattr(getattr(cfg, section), leaf, value)
    runs.write_json(run / "tune.json", {"tune": wanted, **found})
    logger.info("tune: {}", " ".join(f"{k}={v}" for k, v in found["chosen"].items()))


def _lacking(prepared: Prepared) -> dict[str, list[str]]:
    """Classes of which a split has no row: whole groups go into one split, and rare classes have few groups."""
    names = prepared.meta.names if prepared.meta.kind == "classes" else []
    found = {s: set(prepared.y[prepared.rows(s)].tolist()) for s in ("train", "val", "test")}
    lacking = {s: [n for i, n in enumerate(names) if i not in there] for s, there in found.items()}
    return {s: missing for s, missing in lacking.items() if missing}


def _record(job: Job, prepared: Prepared, fast: bool) -> Record:
    return Record(
        task=job.task.name,
        run="",
        fast=fast,
        sample=prepared.meta.sample,
        folds=job.cfg.trainer.folds,
        seed=job.cfg.seed,
        overrides=list(job.composed.overrides),
        prepared=str(prepared.folder),
        data_hash=prepared.meta.data_hash,
        source=prepared.meta.source,
    )


def _keep_provenance(job: Job, run: Path, record: Record) -> None:
    stages.keeper(job, run)()
    record.versions = {**provenance.versions(), "allocator": allocator.current()}
    record.git, diff = provenance.git(job.project.root)
    if diff:
        (run / "git.diff").write_text(diff, encoding="utf-8")
    runs.write(run, record)


def answer(run: Path, content: dict[str, Any], took_s: float, *, as_json: bool, bundle: bool = True) -> None:
    """What `proj train` and `proj evaluate` print."""
    if not as_json:
        _summary(run, content, took_s)
        return
    document = {**{k: content[k] for k in ("task", "split", "metrics")}, "run": str(run)}
    if "folds" in content:
        document |= {k: content[k] for k in ("folds", "mean", "std")}
    elif bundle:
        document["bundle"] = str(run / "bundle")
    console.json_out(document)


def _summary(run: Path, content: dict[str, Any], took_s: float) -> None:
    shown = console.relative(run)
    print("\n".join(tables.lines(content)) + "\n")
    rows = [
        *tables.figures(content),
        ("run", f"{shown} ({console.size(console.folder_bytes(run))})"),
        ("report", str(console.relative(run / "report.html"))),
        ("took", console.seconds(took_s)),
    ]
    without = " ".join(o for o in runs.read(run).overrides if not o.startswith("trainer.folds"))
    console.outcome(rows, next=f"proj train {without}".strip() if "folds" in content else f"proj serve {shown}")
