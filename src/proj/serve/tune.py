"""`proj serve RUN --tune`: which workers, threads, batch and engine are fastest here, measured, explained, kept.

Successive halving: every engine and batch a moment, with the processes and threads that the cores suggest; the best of
them with other numbers of processes and threads; the best of those, and the defaults, longer and in turn. The requests
are the bundle's own samples. A choice whose answers differ from ONNX Runtime's by more than the tolerance is refused.
"""

from __future__ import annotations

import importlib.util
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from proj import bundle as bundles
from proj import infer
from proj.errors import CheckFailed
from proj.serve import cores, trial, tuned
from proj.serve.settings import FILE_NAME, Settings
from proj.serve.trial import OWN, Choice, Trial

BUDGET_S = 60.0
LEAST_S, MOST_S = 0.5, 5.0  # of one measurement
START_S = 2.0  # what a start and a stop take, until it has been seen
ROUND = 1.25  # times a measurement's seconds that it takes, with the one on a single connection
GAIN = 1.03  # by how much another choice must be faster than the defaults to be taken: noise is of that size
KEPT_ENGINES, FINALISTS, FINALS = 2, 2, 2
BATCHES = {("onnxruntime", "fp32"): (OWN, 8), ("openvino", "fp32"): (OWN, 8), ("openvino", "bf16"): (OWN, 1)}

Say = Callable[[str], object]


def run(bundle: Path, settings: Settings, *, budget_s: float = BUDGET_S, say: Say | None = None) -> Path:
    """Measure, print a table and the reasons on stdout, write serve.yaml beside the bundle; returns its path.

    Of `settings` the limits for inputs count, so that the bundle's samples pass, and the precision: bf16, which rounds,
    is taken only where they ask for it. `say` takes each measurement when it is made; stderr without it. Raises
    CheckFailed when not even the defaults answer.
    """
    say = say or (lambda text: print(text, file=sys.stderr, flush=True))
    base = default()
    with tempfile.TemporaryDirectory(prefix="proj-tune-") as folder:
        tuning = _Tuning(bundle, settings, base, Path(folder), budget_s, say)
        tuning.run()
    tried = tuning.tried
    best = choose(base, {c: t for c, t in tried.items() if tuning.may_take(c)})
    path = file_of(bundle)
    tuned.write(path, best, tried)
    why = tuned.reasons(base, best, tried, may_round=settings.precision == "bf16")
    print("\n".join([*tuned.table(list(tried.values()), best), "", *why]))
    print(f"{path} says so; a plain `proj serve` reads it")
    return path


def file_of(bundle: Path) -> Path:
    """The serve.yaml beside a bundle."""
    return bundle.resolve().parent / FILE_NAME


def default() -> Choice:
    """What a plain start does on this machine."""
    workers, threads = cores.shares(Settings.model_validate({}))
    return Choice("onnxruntime", "fp32", workers, threads, OWN)


def engines(base: Choice) -> list[Choice]:
    """Every engine and batch that is installed, with the defaults' processes and threads; the defaults first."""
    kinds = [("onnxruntime", "fp32")]
    if importlib.util.find_spec("openvino") is not None:
        kinds += [("openvino", "fp32"), ("openvino", "bf16")]
    return [Choice(e, p, base.workers, base.threads, batch) for e, p in kinds for batch in BATCHES[e, p]]


def shares(choice: Choice, there: int) -> list[Choice]:
    """The choice with other numbers of processes and threads for `there` cores: as many as cores, and one more."""
    found = []
    for workers in [2**i for i in range(int(math.log2(there)) + 1)] if there > 1 else [1]:
        each = max(1, there // workers)
        for threads in (each, each + 1):
            c = Choice(choice.engine, choice.precision, workers, threads, choice.max_batch)
            found += [c] if c != choice else []
    return found


class _Tuning:
    """Three rounds, each a third of the time, each with fewer choices than the last."""

    def __init__(
        self, bundle: Path, settings: Settings, base: Choice, folder: Path, budget_s: float, say: Say
    ) -> None:  # fmt: skip
        self.base, self.folder, self.say = base, folder, say
        # By itself: a serve.yaml beside it, with keys or a rate, would be in the way.
        self.bundle = Path(shutil.copytree(bundle, folder / "tried" / "bundle"))
        manifest = bundles.read(bundle)
        self.kind, self.bodies = manifest.kind, trial.inputs(manifest)
        self.limits = {k: getattr(settings, k) for k in ("max_pixels", "max_upload_mb", "max_inputs", "queue_size")}
        self.budget_s, self.end = budget_s, time.monotonic() + budget_s
        self.precision = settings.precision
        self.start_s = START_S
        self.tried: dict[Choice, Trial] = {}

    def run(self) -> None:
        first = engines(self.base)
        self.measure(first[:1], self.budget_s / 3 / len(first))
        if self.tried[self.base].failed:
            raise CheckFailed("the server does not run with its defaults", found=self.tried[self.base].failed)
        self.measure(first[1:], self.budget_s / 3)
        seen = [c for c in first if c in self.tried]
        fastest = {(c.engine, c.precision): c for c in reversed(_best(seen, self.tried, len(seen)))}
        kept = _best([c for c in fastest.values() if self.may_take(c)], self.tried, KEPT_ENGINES)
        self.measure([c for k in kept for c in shares(k, cores.cores()) if c not in self.tried], self.left_s / 2)
        takable = [c for c in self.tried if self.may_take(c)]
        last = list(dict.fromkeys([self.base, *_best(takable, self.tried, FINALISTS)]))
        seconds = self.seconds(last, self.left_s / FINALS)
        for i in range(FINALS):
            for choice in last if i % 2 == 0 else last[::-1]:
                self.one(choice, seconds)

    def may_take(self, choice: Choice) -> bool:
        """Is its precision exact, or one that was asked for by name?"""
        return choice.precision in ("fp32", self.precision)

    @property
    def left_s(self) -> float:
        return max(0.0, self.end - time.monotonic())

    def measure(self, choices: Sequence[Choice], budget_s: float) -> None:
        """As many of them as there is time for, in turn from each part of the list."""
        room = max(1, int(budget_s / (self.start_s + ROUND * LEAST_S)))
        step = max(1.0, len(choices) / room)
        chosen = [choices[int(i * step)] for i in range(min(room, len(choices)))]
        seconds = self.seconds(chosen, budget_s)
        for choice in chosen:
            self.one(choice, seconds)

    def seconds(self, choices: Sequence[Choice], budget_s: float) -> float:
        """Of each measurement, when so many choices share the time."""
        return min(MOST_S, max(LEAST_S, (budget_s / max(1, len(choices)) - self.start_s) / ROUND))

    def one(self, choice: Choice, seconds: float) -> None:
        start = time.monotonic()
        t = self.tried.setdefault(choice, Trial(choice))
        trial.attempt(t, self.bundle, self.bodies, self.folder, seconds, self.limits)
        _compare(t, self.tried[self.base], self.kind)
        took = time.monotonic() - start
        self.say(f"{tuned.words(choice)}: {tuned.outcome(t)} ({took:.1f} s)")
        self.start_s = max(0.5, 0.5 * self.start_s + 0.5 * (took - ROUND * seconds))


def _best(choices: Sequence[Choice], tried: dict[Choice, Trial], count: int) -> list[Choice]:
    good = [c for c in choices if tried[c].speed]
    return sorted(good, key=lambda c: -tried[c].speed)[:count]


def choose(base: Choice, tried: dict[Choice, Trial]) -> Choice:
    """The fastest of those that were measured longest; the defaults unless it gains enough."""
    most = max(len(t.per_second) for t in tried.values() if not t.failed)
    best = _best([c for c, t in tried.items() if len(t.per_second) == most], tried, 1)[0]
    return best if tried[best].speed >= GAIN * tried[base].speed else base


def _compare(t: Trial, base: Trial, kind: Literal["classes", "values"]) -> None:
    """Refuse a trial whose answers are further from the defaults' than its precision allows."""
    if t.failed or not t.numbers:
        return
    got, want = np.stack(t.numbers), np.stack(base.numbers)
    t.difference = float(np.abs(got - want).max())
    precision: Literal["fp32", "bf16"] = "bf16" if t.choice.precision == "bf16" else "fp32"
    if why := infer.apart(kind, got, want, precision):
        t.failed = f"other answers than ONNX Runtime's: {why}"
