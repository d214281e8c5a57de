"""What a careful reader would notice in a run's figures, in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from proj import answers
from proj.report import elsewhere, measure
from proj.report.words import label, listed, number, share

if TYPE_CHECKING:
    from proj.report.measure import Intervals
    from proj.report.read import History, Material, Points, Scores

FEW = 100  # test items below which a figure says little
FAR_BELOW = 0.15  # recall this much under the accuracy makes a class worth a sentence
UNBALANCED = 5


@dataclass(frozen=True)
class Finding:
    """`serious`: a reason to trust the model less than its headline figure."""

    text: str
    serious: bool = False


def best_epoch(history: History, scores: Scores | None) -> int | None:
    """The epoch whose weights count: as metrics.json says, else that of the lowest validation loss."""
    if scores is not None and scores.best_epoch is not None:
        return scores.best_epoch
    losses = history.get("val_loss", {})
    points = [p for p in losses.get(0, []) if math.isfinite(p[1])] if len(losses) == 1 else []
    return int(min(points, key=lambda p: p[1])[0]) if points else None


def found(m: Material, known: Intervals) -> list[Finding]:
    """All findings, the serious ones first."""
    every = [
        *_scores(m, known),
        *_baselines(m, known),
        *(Finding(*said) for said in elsewhere.found(m)),
        *_calibration(m),
        *_learning(m),
        *_data(m),
        *_code(m),
    ]
    return sorted(every, key=lambda f: not f.serious)


def _scores(m: Material, known: Intervals) -> Iterator[Finding]:
    s = m.scores
    if s is None:
        return
    if s.split != "test":
        yield Finding(f"These figures are of the split “{s.split}”, not of the held-back test split.", True)
    if s.confusion is None or not s.confusion.any():
        return
    of, hits, n = s.confusion.sum(1), s.confusion.diagonal(), int(s.confusion.sum())
    accuracy = hits.sum() / n
    low, high = known.ranges.get("accuracy", (0.0, 1.0))
    if n < FEW:
        yield Finding(
            f"Only {n} test items: the accuracy may well be anywhere from {share(low)} to {share(high)}.",
            True,
        )
    most = int(of.argmax())
    commonest = f"always answering “{s.names[most]}”"
    if low <= of[most] / n and not _beaten_by(s, float(of[most] / n)):
        text = f"Not better than {commonest}: that is right in {share(of[most] / n)}."
        yield Finding(text, True)
    if (of == 0).any():
        absent = [s.names[k] for k in np.flatnonzero(of == 0)]
        yield Finding(f"No test items of {listed(absent)}: nothing is known of how well it does there.", True)
    recall = np.where(of > 0, hits / np.maximum(of, 1), np.inf)
    worst = int(recall.argmin())
    if len(of) > 1 and recall[worst] < 1:
        text = f"Weakest class: “{s.names[worst]}”, {hits[worst]} of {of[worst]} recognised."
        yield Finding(text, bool(recall[worst] < accuracy - FAR_BELOW))
    if not s.folds:
        yield from _validation(m.history, best_epoch(m.history, s), high)


def _beaten_by(s: Scores, accuracy: float) -> bool:
    """Whether there is a baseline above this accuracy: then it is the one to speak of."""
    return any(b.metrics.get("accuracy", 0.0) > accuracy for b in s.baselines)


def _baselines(m: Material, known: Intervals) -> Iterator[Finding]:
    """A model that does not beat the strongest baseline by more than chance could do."""
    s = m.scores
    if s is None:
        return
    show = share if s.kind == "classes" else number
    if known.gains:
        for name, g in known.gains.items():
            if g.low <= 0 and not _constant(g.over):
                ends = f"{show(g.value)}, 95 % interval {show(g.low)} to {show(g.high)}"
                yield Finding(f"Not clearly better than {g.over}: its gain in {label(name)} is {ends}.", True)
        return
    for name, (low, high) in known.ranges.items():
        own = (s.mean if s.folds and s.mean else s.metrics).get(name, math.nan)
        rivals = [(b.metrics[name], b.name) for b in s.baselines if name in b.metrics and not _constant(b.name)]
        error = name.endswith("_mae")
        if name in ("accuracy", "balanced_accuracy") and rivals and low <= max(rivals)[0]:
            value, who = max(rivals)
        elif error and rivals and high >= min(rivals)[0]:
            value, who = min(rivals)
        else:
            continue
        yield Finding(f"Not clearly better than {who}: {label(name)} {show(own)}, its {show(value)}.", True)


def _constant(baseline: str) -> bool:
    """Always the commonest class: said of it in its own sentence."""
    return baseline == "most frequent class"


def _validation(history: History, best: int | None, high: float) -> Iterator[Finding]:
    """Validation figures that the test does not confirm."""
    at_best = dict(history.get("val_accuracy", {}).get(0, [])).get(-1 if best is None else best)
    if at_best is not None and at_best > high + 0.01:
        yield Finding(
            f"Validation promised more: {share(at_best)} there, at most {share(high)} on the test items.",
            True,
        )


def _calibration(m: Material) -> Iterator[Finding]:
    p = m.predictions
    if p is None or (m.scores and m.scores.kind == "values") or p.y.ndim != 1 or len(p.y) < FEW:
        return
    c = answers.calibration(p.said, p.y)
    low, high = measure.wilson(c.accuracy * c.n, c.n)
    if not low <= c.confidence <= high:
        text = f"{share(c.confidence)} sure on average, right in {share(c.accuracy)} of its answers."
        over = c.confidence > c.accuracy
        yield Finding(f"{'Overconfident' if over else 'Underconfident'}: {text}", over and c.confidence > high + 0.02)


def _learning(m: Material) -> Iterator[Finding]:
    for name, folds in m.history.items():
        bad = [e for points in folds.values() for e, v in points if not math.isfinite(v)]
        if bad:
            yield Finding(f"{name} was not a number in {len(bad)} epochs, first in epoch {bad[0]:g}.", True)
    loss = [p for p in m.history.get("val_loss", {}).get(0, []) if math.isfinite(p[1])]
    best = best_epoch(m.history, m.scores)
    if best is None or len(loss) < 3:
        return
    yield from _end(loss, best)


def _end(loss: Points, best: int) -> Iterator[Finding]:
    at_best = dict(loss).get(best)
    last_epoch, last = loss[-1]
    if best == last_epoch:
        yield Finding("The last epoch was the best: more epochs may still help.")
    elif at_best is not None and last > 1.15 * at_best:
        rose = f"{at_best:.3g} to {last:.3g}"
        yield Finding(f"From epoch {best} on the validation loss rose, {rose}: it began to overfit.")


def _data(m: Material) -> Iterator[Finding]:
    if m.prepared is None:
        return
    skipped = skipped_files(m)
    if skipped:
        files = "1 file" if len(skipped) == 1 else f"{len(skipped):,} files"
        yield Finding(f"{files} could not be read: not in the data.", True)
    if m.prepared.y.ndim != 1 or not m.names:
        return
    counts = np.bincount(m.prepared.y[m.prepared.split == 0].astype(int), minlength=len(m.names))
    most, least = int(counts.argmax()), int(counts.argmin())
    if counts[most] > UNBALANCED * counts[least]:
        sizes = f"{counts[most]:,} training items, “{m.names[least]}” only {counts[least]:,}"
        yield Finding(f"Unbalanced classes: “{m.names[most]}” has {sizes}.")


def _code(m: Material) -> Iterator[Finding]:
    if m.record.git.get("dirty"):
        yield Finding("The code had changes that no commit has; git.diff in the run's folder holds them.")


def skipped_files(m: Material) -> list[str]:
    """What prepare could not read, a line each: meta.json has names, pairs or a mapping to the reason."""
    raw = (m.prepared.meta.get("skipped") if m.prepared else None) or []
    if isinstance(raw, dict):
        return [f"{name}: {why}" for name, why in raw.items()]
    return [_line(entry) for entry in raw] if isinstance(raw, list) else []


def _line(entry: object) -> str:
    if isinstance(entry, dict):
        return ": ".join(str(v) for v in entry.values())
    return ": ".join(map(str, entry)) if isinstance(entry, list | tuple) else str(entry)
