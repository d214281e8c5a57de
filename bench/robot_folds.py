"""UCI Robot Execution Failures, cross-validated by group several times: balanced accuracy with its interval.

    python bench/robot_folds.py RECORDINGS                              five times five folds, some minutes
    python bench/robot_folds.py RECORDINGS --repeats 1 model.series=lstm
    python bench/robot_folds.py RECORDINGS --problem lp4

Each repeat deals the groups to folds anew and starts from other weights; its score is over all rows, each answered by
the network that had not seen it. Beside it, on the same folds, stand the most frequent class and logistic regressions,
on the raw numbers and on signed logarithms with summaries. They learn from the training and the validation rows.
The interval is the middle 95 % of 2,000 draws of groups, the mean of all repeats scored on each draw.
"""

from __future__ import annotations

import argparse
import copy
import logging
import statistics as stats
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger

from proj.data.prepare import prepare
from proj.project import Project
from proj.train import evaluate, fit, inputs
from proj.train.data import View
from proj.verbs.job import Job, job

ROOT = Path(__file__).parents[1]
OURS = "proj"
DRAWS = 2000

Array = np.ndarray[Any, np.dtype[Any]]


def balanced_accuracy(y: Array, said: Array) -> float:
    """Mean over the classes that occur of the share of their rows that are right."""
    return float(np.mean([(said[y == c] == c).mean() for c in np.unique(y)]))


def seen(x: Array) -> dict[str, Array]:
    """What the logistic regressions learn from, by name; `x` (N, T, C)."""
    log = np.sign(x) * np.log1p(np.abs(x))
    summed = [log.mean(1), log.std(1), log.min(1), log.max(1), log[:, -1] - log[:, 0]]
    return {
        "logistic on raw": x.reshape(len(x), -1),
        "logistic on logs and summaries": np.concatenate([log.reshape(len(x), -1), *summed], 1),
    }


def baselines(view: View) -> dict[str, Array]:
    """Classes of the test rows, as baselines say them."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    y, learned = view.prepared.y, np.concatenate([view.train, view.val])
    said = {"most frequent class": np.full(len(view.test), np.bincount(y[learned]).argmax())}
    for name, f in seen(np.asarray(view.x)).items():
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=5000, class_weight="balanced"))
        said[name] = model.fit(f[learned], y[learned]).predict(f[view.test])
    return said


def repeat(j: Job, folder: Path, folds: int, seed: int) -> tuple[Array, dict[str, Array]]:
    """Truth and, by who said it, the classes of all rows; each is in one fold's test part."""
    p = prepare(j.task, j.cfg, j.project.data)
    said: dict[str, Array] = {}
    views = inputs.fold_views(p, folds, j.cfg.model, seed=seed, val_share=j.cfg.data.val_share)
    for i, view in enumerate(views):
        cfg = copy.deepcopy(j.cfg)
        cfg.seed = seed * folds + i
        out = folder / f"{seed}-{i}"
        out.mkdir()
        net = fit.fit(cfg, view, out, cache=folder / "cache")
        prob = evaluate.answers(net, view, view.test)
        for name, classes in {OURS: prob.argmax(1), **baselines(view)}.items():
            said.setdefault(name, np.full(len(p.y), -1))[view.test] = classes
    return p.y, said


def interval(y: Array, repeats: list[Array], group: Array) -> tuple[float, float]:
    """Bootstrap over groups; a draw in which a class is missing is drawn again."""
    rng = np.random.default_rng(0)
    names, of = np.unique(group, return_inverse=True)
    rows_of = [np.flatnonzero(of == g) for g in range(len(names))]
    scores: list[float] = []
    while len(scores) < DRAWS:
        rows = np.concatenate([rows_of[g] for g in rng.integers(0, len(names), len(names))])
        if len(np.unique(y[rows])) == len(np.unique(y)):
            scores.append(float(np.mean([balanced_accuracy(y[rows], said[rows]) for said in repeats])))
    low, high = np.quantile(scores, [0.025, 0.975])
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", type=Path, help="a folder or archive with lp1.data or lp1.csv")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--problem", default="lp1")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folds", type=int, default=5)
    args = parser.parse_args()
    logger.remove()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    start = time.monotonic()
    words = ["task=robot", f"task.problem={args.problem}", f"data.source='{args.recordings.resolve()}'"]
    said: dict[str, list[Array]] = {}
    with tempfile.TemporaryDirectory() as folder:
        j = job([*words, *args.overrides], Project(Path(folder), ROOT / "configs", "benchmark"))
        p = prepare(j.task, j.cfg, j.project.data)
        y, group = p.y.copy(), p.group.copy()
        print(f"{args.problem}: {len(y)} rows, {len(np.unique(group))} groups, {len(p.meta.names)} classes")
        for seed in range(args.repeats):
            for name, classes in repeat(j, Path(folder), args.folds, seed)[1].items():
                said.setdefault(name, []).append(classes)
            print(f"repeat {seed + 1}: balanced accuracy {balanced_accuracy(y, said[OURS][-1]):.3f}", flush=True)
    print(f"{'':<30}  {'mean':>5}  {'spread':>6}  {'from':>5}  {'to':>5}  95 % interval")
    for name, repeats in said.items():
        each = [balanced_accuracy(y, classes) for classes in repeats]
        spread = stats.stdev(each) if len(each) > 1 else 0.0
        low, high = interval(y, repeats, group)
        print(f"{name:<30}  {stats.mean(each):>5.3f}  {spread:>6.3f}  {min(each):>5.3f}  {max(each):>5.3f}  "
              f"{low:.3f} to {high:.3f}")  # fmt: skip
    print(f"{(time.monotonic() - start) / 60:.1f} minutes, imports and preparation included")


if __name__ == "__main__":
    main()
