"""Cross-validation by group: every row is tested once, by a network that saw nothing of its group."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from loguru import logger

from proj import runs
from proj.verbs.stages import keeper, stage

if TYPE_CHECKING:
    from proj.data.store import Prepared
    from proj.runs import Record
    from proj.train.data import View
    from proj.verbs.job import Job

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Fold:
    """One fold's test rows, what was said of them, what the strongest baseline says (None: there is none)."""

    rows: Array
    said: Array
    simple: Array | None
    scores: dict[str, Any]


def folds(job: Job, prepared: Prepared, run: Path, record: Record, fast: bool) -> dict[str, Any]:
    """Every fold that the run has not yet, then mean and spread over all; writes metrics.json and predictions.npz."""
    logger.info("loading torch")
    from proj.train import evaluate, inputs, memory, scores, settle

    memory.keep_freed()
    cfg, d = job.cfg, job.cfg.data
    record.device = settle.kind(cfg)
    k, cache = cfg.trainer.folds, job.project.data / "features"
    views = inputs.fold_views(prepared, k, cfg.model, seed=d.split_seed, val_share=d.val_share, cache=cache)
    each: list[Fold] = []
    for i, view in enumerate(views):
        out = run / "folds" / str(i)
        if (out / "fold.json").is_file():
            one = _read(out)
        else:
            with stage(record, f"fold {i}"):
                one = _fold(job, prepared, view, run, i, fast)
            _keep(out, one)
        first = next(iter(one.scores["metrics"]))
        value = one.scores["metrics"][first]
        logger.info("fold {} of {}: {} {:.4f} on {} rows", i + 1, k, first, value, len(one.rows))
        each.append(one)
    index, said = (np.concatenate(parts) for parts in ([f.rows for f in each], [f.said for f in each]))
    content = scores.content(said, prepared.y[index], prepared.meta, first=job.task.metric)
    found = [f.simple for f in each if f.simple is not None]
    beaten = np.concatenate(found) if len(found) == len(each) else None
    whole = {**content, **_summary([f.scores for f in each])}
    return evaluate.write(run, view, index, said, whole, simple=beaten)


def _fold(job: Job, prepared: Prepared, view: View, run: Path, i: int, fast: bool) -> Fold:
    from proj.train import baseline, evaluate, fit, scores, setup

    started = time.monotonic()
    cfg, cache, out = job.cfg, job.project.data / "features", run / "folds" / str(i)
    (out / "checkpoints").mkdir(parents=True, exist_ok=True)
    net = fit.fit(cfg, view, out, cache=cache, fast=fast, settled=keeper(job, run))
    test = view.test[: evaluate.BATCH] if fast else view.test
    features = setup.frozen_features(cfg, net, view, cache)
    evaluate.calibrated(net, cfg, view, features)
    said = evaluate.answers(net, view, test, features)
    others, strongest = baseline.baselines(prepared, view.train, test)
    metrics = scores.content(said, prepared.y[test], prepared.meta, first=job.task.metric)["metrics"]
    seconds = round(time.monotonic() - started, 1)
    runs.write_json(out / "split.json", {"test_groups": sorted(set(prepared.group[view.test].tolist())),
                                         "mean": view.mean, "std": view.std})  # fmt: skip
    found = {"fold": i, "metrics": metrics, "rows": len(test), "seconds": seconds, "baselines": others}
    return Fold(test, said, strongest, found)


def _keep(out: Path, f: Fold) -> None:
    """fold.json is written last: a fold that has it is done."""
    parts = {"rows": f.rows, "said": f.said} | ({} if f.simple is None else {"simple": f.simple})
    np.savez(out / "answers.npz", **parts)  # type: ignore[arg-type]
    runs.write_json(out / "fold.json", f.scores)


def _read(out: Path) -> Fold:
    with np.load(out / "answers.npz", allow_pickle=False) as kept:
        simple = kept.get("simple")
        return Fold(kept["rows"], kept["said"], simple, runs.read_json(out / "fold.json", {}))


def _summary(each: list[dict[str, Any]]) -> dict[str, Any]:
    mean = _mean([f["metrics"] for f in each])
    std = {m: float(np.std([f["metrics"][m] for f in each if m in f["metrics"]], ddof=1)) for m in mean}
    baselines = [
        {"name": b["name"], "metrics": _mean([f["baselines"][j]["metrics"] for f in each])}
        for j, b in enumerate(each[0]["baselines"])
    ]
    return {"baselines": baselines, "metrics": mean, "folds": each, "mean": mean, "std": std}


def _mean(each: list[dict[str, float]]) -> dict[str, float]:
    """Of each metric, over the folds that have it."""
    found = {m: [one[m] for one in each if m in one] for m in each[0]}
    return {m: sum(values) / len(values) for m, values in found.items()}
