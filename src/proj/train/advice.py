"""What to change, decided by what was measured: the rules, in the order in which they matter."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proj import engines

if TYPE_CHECKING:
    from proj.train.measure import Profile

INPUT = 0.15  # shares from which on it is worth a change
DOMINATES = 0.4  # of the operations' time
LOOP = 0.3
AUGMENTATION = 0.25
IDLE = 0.3
CHECKPOINTS = 0.1
STEP_S = 0.02  # shorter steps are ruled by what each costs whatever its size
LONG_STEP_S = 0.05  # from here on a second thread is sure to be worth its waiting
EPOCH_STEPS = 8  # no batch becomes so large that an epoch has fewer steps


@dataclass(frozen=True)
class Advice:
    """`change`: overrides that belong together; none where no key helps. `why`: what was measured."""

    change: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class Facts:
    """What the rules look at. Shares are of 0..1; `operations`: of their time, by kind."""

    device: str
    bf16: bool
    bf16_units: bool  # the processor multiplies bf16
    threads: int
    cores: int
    workers: int
    batch_size: int
    train_rows: int
    step_s: float
    frozen: bool
    cached: bool
    augmented: bool
    geometric: bool  # rotation, shift or scale
    checkpoint_every_steps: int
    shares: dict[str, float]
    operations: dict[str, float]
    device_busy: float | None  # of a GPU


def facts(p: Profile) -> Facts:
    t, m, a = p.cfg.trainer, p.cfg.model, p.cfg.augment
    kinds = dict.fromkeys(("depthwise", "convolution", "matmul", "other"), 0.0)
    for o in p.seen.operations:
        kinds[o.kind] += o.share
    return Facts(
        device=p.device.kind,
        bf16=p.device.precision.startswith("bf16"),
        bf16_units=p.device.kind == "cuda" or engines.has_bf16(),
        threads=t.threads,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        workers=t.workers,
        batch_size=t.batch_size,
        train_rows=p.train_rows,
        step_s=p.step_s,
        frozen=m.freeze,
        cached=m.cache,
        augmented=any(v for k, v in vars(a).items() if k != "randaugment_magnitude"),
        geometric=bool(a.rotate_deg or a.shift or a.scale),
        checkpoint_every_steps=t.checkpoint_every_steps,
        shares=p.seen.shares(),
        operations=kinds,
        device_busy=p.device_busy,
    )


def advise(f: Facts) -> list[Advice]:
    """Every rule that applies, the most useful first; none: there is nothing to change."""
    return [a for rule in RULES if (a := rule(f)) is not None]


def keep_features(f: Facts) -> Advice | None:
    if not f.frozen or f.cached:
        return None
    change = ("model.cache=true", "model.feature_views=4") if f.augmented else ("model.cache=true",)
    return Advice(
        change, f"the frozen backbone is computed anew for every batch: {_pc(f.shares['forward'])} of the time"
    )


def read_ahead(f: Facts) -> Advice | None:
    share = f.shares["input"]
    if share <= INPUT:
        return None
    if f.workers >= 2:
        more = "data are read more slowly than they are used: a faster disk, or task.height_px and width_px smaller"
        return Advice((), f"batches are waited for {_pc(share)} of the time with {f.workers} threads that read; {more}")
    return Advice(("trainer.workers=2",), f"batches are waited for {_pc(share)} of the time; two threads read ahead")


def full_precision(f: Facts) -> Advice | None:
    share = f.operations["depthwise"]
    if f.device != "cpu" or not f.bf16 or share <= max(f.operations["convolution"], f.operations["matmul"]):
        return None
    why = f"depthwise convolutions take {_pc(share)} of the operations' time; in bf16 a CPU only converts them"
    return Advice(("trainer.precision=32",), why)


def half_precision(f: Facts) -> Advice | None:
    share = f.operations["convolution"] + f.operations["matmul"]
    plain = share > DOMINATES and f.operations["depthwise"] < share / 4
    if f.bf16 or not f.bf16_units or not plain or f.step_s < STEP_S:
        return None
    what = "this GPU" if f.device == "cuda" else "this processor"
    return Advice(
        ("trainer.precision=bf16",), f"{_pc(share)} is plain products, which {what} multiplies faster in bf16"
    )


def larger_batch(f: Facts) -> Advice | None:
    """A step's fixed costs are Lightning's loop, callbacks, the optimizer's call."""
    share = f.shares["loop"] + f.shares["callbacks"]
    size = _larger(f)
    if share <= LOOP or f.step_s >= STEP_S or size < 2 * f.batch_size:
        return None
    return Advice((f"trainer.batch_size={size}",),
                  f"{_pc(share)} is what a step costs whatever its size; larger batches are fewer steps "
                  "(look at model.lr then)")  # fmt: skip


def more_threads(f: Facts) -> Advice | None:
    share = f.shares["forward"] + f.shares["backward"]
    if f.device != "cpu" or f.threads > 1 or f.cores < 2 or f.step_s < LONG_STEP_S or share < 0.5:
        return None
    return Advice(
        (f"trainer.threads={f.cores}",), f"one thread computes for {_pc(share)} of the time, on {f.cores} cores"
    )


def fewer_threads_or_programs(f: Facts) -> Advice | None:
    share = f.shares["idle"]
    if f.device != "cpu" or share <= IDLE:
        return None
    if f.threads > 1 and f.step_s < STEP_S:
        return Advice(("trainer.threads=1",), f"steps are short: threads wait for each other {_pc(share)} of the time")
    instead = "look what runs beside it" + (", or try trainer.threads=1, which waits for no other" * (f.threads > 1))
    return Advice((), f"{_pc(share)} of the time something else had the cores: {instead}")


def cheaper_augmentation(f: Facts) -> Advice | None:
    share = f.shares["augmentation"]
    if share <= AUGMENTATION or not f.augmented or (f.frozen and not f.cached):
        return None
    if f.geometric:
        change = ("augment.rotate_deg=0", "augment.shift=0", "augment.scale=0")
        return Advice(change, f"augmentation takes {_pc(share)}, most of it resampling for turns, shifts and scales; "
                              "see what accuracy is without")  # fmt: skip
    return Advice((), f"augmentation takes {_pc(share)}: see which of augment.* accuracy can do without")


def feed_the_device(f: Facts) -> Advice | None:
    if f.device_busy is None or f.device_busy >= 0.6:
        return None
    size = _larger(f)
    why = f"the device computes {_pc(f.device_busy)} of the time: steps are too short for it"
    if size >= 2 * f.batch_size:
        return Advice((f"trainer.batch_size={size}",), why)
    return Advice((), f"{why}, and the rows too few for larger batches; a smaller device does as well")


def fewer_checkpoints(f: Facts) -> Advice | None:
    share = f.shares["checkpoints"]
    if share <= CHECKPOINTS or not f.checkpoint_every_steps:
        return None
    change = f"trainer.checkpoint_every_steps={10 * f.checkpoint_every_steps}"
    return Advice((change,), f"training waits for checkpoints {_pc(share)} of the time")


def _larger(f: Facts) -> int:
    """Four times the batch, as long as an epoch keeps EPOCH_STEPS."""
    return min(4 * f.batch_size, f.train_rows // EPOCH_STEPS)


def _pc(share: float) -> str:
    return f"{100 * share:.0f} %"


RULES: tuple[Callable[[Facts], Advice | None], ...] = (
    keep_features,
    read_ahead,
    full_precision,
    half_precision,
    more_threads,
    fewer_threads_or_programs,
    feed_the_device,
    larger_batch,
    cheaper_augmentation,
    fewer_checkpoints,
)
