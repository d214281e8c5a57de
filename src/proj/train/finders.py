"""The learning rate at which the loss falls fastest, and the largest batch that fits into memory."""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from loguru import logger
from pytorch_lightning.tuner.tuning import Tuner

from proj.errors import ConfigError
from proj.train import setup, trial
from proj.train.data import Batches, DataModule

if TYPE_CHECKING:
    from proj.train.trial import Setting

LR_FROM, LR_TO, LR_STEPS = 1e-6, 1.0, 100
FIRST = 10  # steps that Lightning leaves out too
LARGEST_SHARE = 0.8  # of the free memory that a batch may fill
LARGEST_BATCH = 65_536
FEW_STEPS = 20  # an epoch


def lr(s: Setting, run: Path) -> dict[str, Any]:
    """A range test (Smith 2017, arXiv 1506.01186): {"chosen", "lr": [...], "loss": [...]} and run/tune-lr.png.

    The rate grows by the same factor in each of 100 steps; chosen is where the loss falls fastest. Raises ConfigError
    when the loss falls nowhere.
    """
    net = deepcopy(s.net)
    model = setup.lit(s.cfg, net, s.view, total=LR_STEPS, features=s.data.features)
    model.lr = s.cfg.model.lr  # type: ignore[assignment]  # where Lightning expects it
    with (
        tempfile.TemporaryDirectory(prefix="proj-tune-") as folder,
        setup.quiet(),
        setup.computing(s.cfg, net, len(s.view.train)),
    ):
        trainer = pl.Trainer(
            **setup.settings(s.cfg, s.device, 1000), logger=False, enable_checkpointing=False,
            limit_val_batches=0, default_root_dir=Path(folder),
        )  # fmt: skip
        with _no_animation():
            found = Tuner(trainer).lr_find(
                model, datamodule=s.data, min_lr=LR_FROM, max_lr=LR_TO, num_training=LR_STEPS, update_attr=False
            )
    rates, losses = ([float(v) for v in found.results[k]] if found else [] for k in ("lr", "loss"))
    best = found.suggestion() if found else None
    if best is None:
        raise ConfigError("tune=lr found no rate at which the loss falls", next="set model.lr=... yourself")
    _plot_lr(rates, losses, best, run / "tune-lr.png")
    logger.info("tune: the loss falls fastest at {:.2g}, see {}", best, run / "tune-lr.png")
    return {"chosen": {"model.lr": float(f"{best:.3g}")}, "lr": rates, "loss": losses}


@contextmanager
def _no_animation() -> Iterator[None]:
    """Lightning's finder draws its own bar, which belongs on a terminal alone."""
    if sys.stderr.isatty():
        yield
        return
    with redirect_stderr(io.StringIO()):
        yield


def batch(s: Setting, run: Path) -> dict[str, Any]:
    """Doubles the batch until it no longer fits: {"chosen", "tried": [{batch_size, bytes, rows_per_s}]} and a plot.

    On a GPU it tries until memory runs out; on a CPU, where that would end the process, it foresees the next one's
    need from the last two. Never more than the rows to train on.
    """
    kind, rows = s.device.kind, len(s.data.train.rows)
    limit, base = trial.free_memory(kind) * LARGEST_SHARE, _held(kind)
    tried: list[dict[str, Any]] = []
    size = min(8, rows)
    while size <= min(rows, LARGEST_BATCH):
        try:
            one = _one(s, size, base)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        tried.append(one)
        logger.info("tune: batches of {:,}: {:.0f} MB, {:.0f} rows/s", size, one["bytes"] / 1e6, one["rows_per_s"])
        if _foreseen(tried) > limit:
            break
        size *= 2
    if not tried:
        raise ConfigError(f"not even batches of {size} fit into memory", next="try a smaller model or input_size_px")
    chosen = tried[-1]["batch_size"]
    _plot_batch(tried, limit, run / "tune-batch.png")
    logger.info("tune: {} is the largest batch that fits; the best learning rate grows with it", chosen)
    if (steps := -(-rows // chosen)) < FEW_STEPS:
        logger.warning("tune: an epoch has {} steps of that; smaller batches may learn better", steps)
    return {"chosen": {"trainer.batch_size": chosen}, "free_bytes": int(limit / LARGEST_SHARE), "tried": tried}


def _one(s: Setting, size: int, base: int) -> dict[str, Any]:
    cfg = replace(s.cfg, trainer=replace(s.cfg.trainer, batch_size=size))
    took = trial.step_s(replace(s, cfg=cfg, data=_cut(s.data, size)), steps=3, warm_up=1)
    return {"batch_size": size, "bytes": max(0, _peak(s.device.kind) - base), "rows_per_s": round(size / took, 1)}


def _cut(data: DataModule, size: int) -> DataModule:
    """The same rows in batches of another size."""
    t, v = data.train, data.val
    train = Batches(t.x, t.y, t.rows, size, seed=t.seed, pin=t.pin)
    return DataModule(train, Batches(v.x, v.y, v.rows, size, pin=v.pin), features=data.features)


def _held(kind: str) -> int:
    """Bytes that are held now: of the GPU by tensors, or by this process."""
    return torch.cuda.memory_allocated() if kind == "cuda" else _status("VmRSS")


def _peak(kind: str) -> int:
    """The most bytes that were ever held; a larger batch than those before always sets it anew."""
    return torch.cuda.max_memory_allocated() if kind == "cuda" else _status("VmHWM")


def _foreseen(tried: list[dict[str, Any]]) -> float:
    """Bytes of twice the last batch, by the line through the last two."""
    if len(tried) == 1:
        return 2.0 * float(tried[0]["bytes"])
    a, b = tried[-2:]
    slope = max(0.0, (b["bytes"] - a["bytes"]) / (b["batch_size"] - a["batch_size"]))
    foreseen: float = b["bytes"] + slope * b["batch_size"]
    return foreseen


def _status(name: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(x.split()[1]) * 1024 for x in lines if x.startswith(name))
    except (OSError, StopIteration):
        return 0


def _plot_lr(rates: list[float], losses: list[float], best: float, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.add_subplot(xscale="log", xlabel="learning rate", ylabel="training loss")
    axes.plot(rates[FIRST:], losses[FIRST:])
    axes.axvline(best, color="tab:red", linestyle="--", label=f"falls fastest at {best:.2g}")
    settled = losses[FIRST:]  # the average over the first few is of too few
    low, start = min(settled), settled[0]
    axes.set_ylim(low - 0.1 * (start - low) - 1e-3, start + 0.5 * (start - low) + 1e-3)
    axes.legend()
    figure.savefig(path, dpi=110)


def _plot_batch(tried: list[dict[str, Any]], limit: float, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    memory = figure.add_subplot(xscale="log", xlabel="batch size", ylabel="memory, GB")
    sizes = [t["batch_size"] for t in tried]
    memory.plot(sizes, [t["bytes"] / 1e9 for t in tried], "o-", color="tab:blue")
    memory.axhline(limit / 1e9, color="tab:blue", linestyle=":", label="what may be filled")
    memory.set_xticks(sizes, [str(n) for n in sizes])
    memory.legend(loc="upper left")
    speed = memory.twinx()
    speed.set_ylabel("rows/s")
    speed.plot(sizes, [t["rows_per_s"] for t in tried], "s-", color="tab:orange")
    figure.savefig(path, dpi=110)
