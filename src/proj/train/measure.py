"""A short piece of a real training, measured: `proj profile`. No run is written."""

from __future__ import annotations

import tempfile
import time
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
import torch
from loguru import logger

from proj import console
from proj.train import callbacks, features, settle, setup, stop
from proj.train import net as nets
from proj.train.checkpoints import Writer
from proj.train.data import FROZEN_BATCH
from proj.train.roof import Roof, roof
from proj.train.watch import Enough, Operation, Seen, Watch, operations

if TYPE_CHECKING:
    from proj.config import Config
    from proj.train.data import DataModule, View
    from proj.train.net import Net
    from proj.train.settle import Device

LIMIT_S = 30.0  # of the steps, roughly
ROOF_S = 1.0  # for each of two
ALL_S = 20.0  # features that take no longer are computed and kept, as training would; of others there is a part
PART_S = 8.0


@dataclass(frozen=True)
class Extraction:
    """Of a frozen backbone's features. `seconds`: for all rows in all their views, estimated from `rows` of them."""

    rows: int
    rows_per_s: float
    seconds: float
    operations: list[Operation]


@dataclass(frozen=True)
class Profile:
    """`cfg`: as it was settled. `rows_per_s` and `step_s`: without what the measuring itself costs."""

    cfg: Config
    device: Device
    train_rows: int
    seen: Seen
    rows_per_s: float
    step_s: float
    flops_per_row: float
    roof: Roof
    memory_bytes: int | None
    extraction: Extraction | None

    @property
    def flops_per_s(self) -> float:
        return self.flops_per_row * self.rows_per_s

    @property
    def device_busy(self) -> float | None:
        """The share of a step that a GPU computes; None on a CPU, and where the profiler sees no kernels (MPS)."""
        return min(1.0, self.seen.device_s / self.step_s) if self.device.kind == "cuda" else None


def measure(cfg: Config, view: View, cache: Path, *, steps: int) -> Profile:
    """Train for a few steps as `fit` does, and watch; then see what the machine can do at most.

    Features of a frozen backbone that are there, or are soon made, go to `cache`. Raises what `fit` raises.
    """
    cfg = deepcopy(cfg)
    cfg.track.kind, cfg.trainer.profiler = "csv", "off"
    setup.seed_all(cfg.seed)
    net = nets.build(cfg.model, view)
    device = settle.settle(cfg, net, view)
    with tempfile.TemporaryDirectory(prefix="proj-profile-") as folder:
        out = Path(folder)
        extraction = None
        if cfg.model.freeze:
            extraction = _extraction(cfg, net, view, device)
            if extraction.seconds > ALL_S:
                view, cache = _part(view, int(PART_S * extraction.rows_per_s)), out / "features"
        with setup.quiet():
            data = _data(cfg, net, view, cache, device)
            watch = Watch(steps, device.kind, compiled=cfg.trainer.compile == "always", limit_s=LIMIT_S)
            _train(cfg, net, view, data, device, watch, out)
    n, size = len(data.train.rows), cfg.trainer.batch_size
    seen = watch.seen
    rows = sum(_rows_at(i, n, size) for i in range(seen.first, seen.first + seen.steps))
    logger.info("what this machine reaches at most")
    return Profile(
        cfg,
        device,
        n,
        seen,
        rows_per_s=rows / seen.seconds,
        step_s=seen.seconds / seen.steps,
        flops_per_row=seen.flops / _rows_at(seen.flops_at, n, size),
        roof=roof(device.kind, device.precision, cfg.trainer.threads, seconds=ROOF_S),
        memory_bytes=_memory(device.kind),
        extraction=extraction,
    )


def _data(cfg: Config, net: Net, view: View, cache: Path, device: Device) -> DataModule:
    return setup.batches(cfg, net, view, cache, device, fast=False)


def _train(cfg: Config, net: Net, view: View, data: DataModule, device: Device, watch: Watch, out: Path) -> None:
    """Lightning's own training with the callbacks of a run, until the watch has seen enough."""
    epochs = 1_000_000  # the watch ends it
    model = setup.lit(cfg, net, view, total=cfg.trainer.max_epochs * len(data.train), features=data.features)
    writer = Writer()
    (out / "checkpoints").mkdir()
    try:
        with (
            stop.listening() as asked,
            console.progress(0, "profile", "batches") as bar,
            setup.computing(cfg, net, len(view.train)),
        ):
            trainer = pl.Trainer(
                **setup.settings(cfg, device, epochs),
                callbacks=callbacks.every(cfg, out, bar, writer, asked),
                logger=False,
                plugins=[writer],
                profiler=watch,
                default_root_dir=out,
            )
            trainer.fit(model, datamodule=data)
    except Enough:
        pass
    finally:
        watch.parts.close()
        writer.teardown()


def _rows_at(step: int, n: int, size: int) -> int:
    """How many of `n` rows the batch of a step has: `size`, and at an epoch's end what is left, a lone row with it."""
    whole = -(-n // size) - (n > size and n % size == 1)
    return n - (whole - 1) * size if step % whole == whole - 1 else size


def _extraction(cfg: Config, net: Net, view: View, device: Device) -> Extraction:
    """Features of some batches, timed; the first of them is computed before."""
    total = len(view.prepared.y) * cfg.model.feature_views
    features.compute(net, cfg, _part(view, FROZEN_BATCH), device.torch, passes=1)
    count, took = FROZEN_BATCH, 0.0
    while took < 1.0 and count < total:
        count = min(2 * count, total, len(view.prepared.y))
        some = _part(view, count)
        start = time.perf_counter()
        features.compute(net, cfg, some, device.torch, passes=1)
        took = time.perf_counter() - start
        if count == len(view.prepared.y):
            break
    with torch.profiler.profile(record_shapes=True) as recorded:
        features.compute(net, cfg, _part(view, FROZEN_BATCH), device.torch, passes=1)
    rate = count / max(took, 1e-9)
    return Extraction(count, rate, total / rate, operations(recorded, 1, device.kind)[0])


def _part(view: View, count: int) -> View:
    """So many rows of a view, of its splits in their shares; each has one row at least."""
    share = min(1.0, count / len(view.prepared.y))
    parts = [rows[: max(1, round(share * len(rows)))] for rows in (view.train, view.val, view.test)]
    index = np.concatenate(parts)
    ends = np.cumsum([len(p) for p in parts])
    train, val, test = np.split(np.arange(len(index)), ends[:-1])
    prepared = replace(view.prepared, y=view.prepared.y[index])
    return replace(view, prepared=prepared, train=train, val=val, test=test, x=_Rows(view.x, index))


class _Rows:
    """Rows of an array under new numbers; they are read when asked for."""

    def __init__(self, x: Any, index: np.ndarray[Any, Any]) -> None:
        self.x, self.index = x, index

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: Any) -> Any:
        return self.x[self.index[rows]]


def _memory(kind: str) -> int | None:
    """The most bytes that the process, or on a GPU its tensors, ever held; None where the system does not say."""
    if kind == "cuda":
        return torch.cuda.max_memory_allocated()
    try:
        import resource
        import sys
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
