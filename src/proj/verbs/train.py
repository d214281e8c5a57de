"""`proj train`: data → model → scores → bundle → report, in one run directory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from loguru import logger

from proj import config, console, provenance, runs
from proj.data import prepare, versions
from proj.data.store import Prepared
from proj.errors import Unreachable
from proj.runs import Record
from proj.verbs import tables
from proj.verbs.job import Job


def train(job: Job, *, fast: bool, name: str = "", replace: bool = False) -> tuple[Path, dict[str, Any]]:
    """Returns the run directory and the content of its metrics.json. A run that fails says so in its run.json."""
    started = time.monotonic()
    prepared = prepare.prepare(job.task, job.cfg, job.project.data, fast=fast)
    versions.keep(job.project.root, job.project.data / "raw" / job.task.name)
    took = time.monotonic() - started
    n = {s: len(prepared.rows(s)) for s in ("train", "val", "test")}
    logger.info("data: {train} rows to train on, {val} to validate, {test} held back", **n)
    record = _record(job, prepared, fast)
    run = runs.create(job.project.models, record, name=name, replace=replace)
    with runs.lock(run), console.log_to_file(run / "train.log"), _status(run, record), _without_hub(job):
        logger.info("run {}", run)
        record.seconds["prepare"] = round(took, 2)
        _keep_provenance(job, run, record)
        content = (
            _folds(job, prepared, run, record, fast)
            if job.cfg.trainer.folds
            else _one(job, prepared, run, record, fast)
        )
    _report(run, prepared.folder)
    return run, content


def _one(job: Job, prepared: Prepared, run: Path, record: Record, fast: bool) -> dict[str, Any]:
    """Train, evaluate and export on the split that prepare decided."""
    logger.info("loading torch")
    from proj.train import evaluate, export, fit, inputs, memory
    from proj.train import net as nets

    memory.keep_freed()
    cfg, cache = job.cfg, job.project.data / "features"
    view = inputs.view(prepared, cfg.model, cache)
    inputs.keep(view, run)
    with _stage(record, "train"):
        record.device = fit.pick_device(cfg).kind
        net = fit.fit(cfg, view, run, cache=cache, fast=fast)
        nets.keep(net, run)
    with _stage(record, "evaluate"):
        kept = fit.frozen_features(cfg, net, view, cache)
        tested = evaluate.assess(net, job.task, cfg, view, run, fast=fast, features=kept)
    with _stage(record, "export"):
        export.export(net, job.task, cfg, view, run, tested)
    return tested.content


def _folds(job: Job, prepared: Prepared, run: Path, record: Record, fast: bool) -> dict[str, Any]:
    """Cross-validation by group: every row is tested once, by a network that saw nothing of its group."""
    logger.info("loading torch")
    import numpy as np

    from proj.train import baseline, evaluate, fit, inputs, memory, scores

    memory.keep_freed()
    cfg, d, cache = job.cfg, job.cfg.data, job.project.data / "features"
    record.device = fit.pick_device(cfg).kind
    k = cfg.trainer.folds
    views = inputs.fold_views(prepared, k, cfg.model, seed=d.split_seed, val_share=d.val_share, cache=cache)
    each: list[dict[str, Any]] = []
    rows, answers, simple = [], [], []
    for i, view in enumerate(views):
        started = time.monotonic()
        out = run / "folds" / str(i)
        (out / "checkpoints").mkdir(parents=True)
        with _stage(record, f"fold {i}"):
            net = fit.fit(cfg, view, out, cache=cache, fast=fast)
            test = view.test[: evaluate.BATCH] if fast else view.test
            kept = fit.frozen_features(cfg, net, view, cache)
            evaluate.calibrated(net, cfg, view, kept)
            said = evaluate.answers(net, view, test, kept)
            others, strongest = baseline.baselines(prepared, view.train, test)
        metrics = scores.content(said, prepared.y[test], prepared.meta, first=job.task.metric)["metrics"]
        seconds = round(time.monotonic() - started, 1)
        each.append({"fold": i, "metrics": metrics, "rows": len(test), "seconds": seconds, "baselines": others})
        runs.write_json(out / "split.json", {"test_groups": sorted(set(prepared.group[view.test].tolist())),
                                             "mean": view.mean, "std": view.std})  # fmt: skip
        first = next(iter(metrics))
        logger.info("fold {} of {}: {} {:.4f} on {} rows", i + 1, k, first, metrics[first], len(test))
        rows.append(test)
        answers.append(said)
        simple.append(strongest)
    index, said = np.concatenate(rows), np.concatenate(answers)
    content = scores.content(said, prepared.y[index], prepared.meta, first=job.task.metric)
    content["baselines"] = [
        {"name": b["name"], "metrics": _mean([f["baselines"][j]["metrics"] for f in each])}
        for j, b in enumerate(each[0]["baselines"])
    ]
    mean = _mean([f["metrics"] for f in each])
    std = {m: float(np.std([f["metrics"][m] for f in each if m in f["metrics"]], ddof=1)) for m in mean}
    whole = {**content, "metrics": mean, "folds": each, "mean": mean, "std": std}
    found = [s for s in simple if s is not None]
    beaten = np.concatenate(found) if len(found) == len(simple) else None
    return evaluate.write(run, view, index, said, whole, simple=beaten)


def _mean(each: list[dict[str, float]]) -> dict[str, float]:
    """Of each metric, over the folds that have it."""
    found = {m: [one[m] for one in each if m in one] for m in each[0]}
    return {m: sum(values) / len(values) for m, values in found.items()}


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
    text = yaml.safe_dump(config.to_dict(job.cfg), sort_keys=False)
    (run / "config.yaml").write_text(text, encoding="utf-8")
    record.versions = provenance.versions()
    record.git, diff = provenance.git(job.project.root)
    if diff:
        (run / "git.diff").write_text(diff, encoding="utf-8")
    runs.write(run, record)


@contextmanager
def _stage(record: Record, name: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    record.seconds[name] = round(time.monotonic() - start, 2)


@contextmanager
def _status(run: Path, record: Record) -> Iterator[None]:
    """Leave run.json with how it ended, whatever ends it."""
    try:
        yield
    except BaseException as e:
        record.status, record.error = "failed", str(e) or type(e).__name__
        raise
    else:
        record.status = "finished"
    finally:
        record.ended = runs.now()
        runs.write(run, record)


@contextmanager
def _without_hub(job: Job) -> Iterator[None]:
    """An unreachable hub is no dead end: say what this task can be trained with instead."""
    try:
        yield
    except Unreachable as e:
        instead = f"or train without a hub: `proj train task={job.task.name} {job.task.offline}`"
        raise Unreachable(e.what, found=e.found, next=", ".join(filter(None, [e.next, instead]))) from None


def _report(run: Path, prepared: Path) -> Path:
    from proj.report import run as report

    return report.write(run, prepared)


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
