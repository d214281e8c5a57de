"""A few steps of a real training, for whoever wants to know how fast, how large or how steep."""

from __future__ import annotations

import tempfile
import time
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from proj.train import net as nets
from proj.train import setup
from proj.train.watch import Enough

if TYPE_CHECKING:
    from proj.config import Config
    from proj.train.data import DataModule, View
    from proj.train.net import Net
    from proj.train.settle import Device

WARM_UP = 2  # steps that are not counted: the first ones choose kernels and fill caches
LIMIT_S = 8.0


@dataclass(frozen=True)
class Setting:
    """What is tried on: the config is settled, `net` and `data` as a training would begin with."""

    cfg: Config
    net: Net
    view: View
    data: DataModule
    device: Device


class Watch(Callback):
    """Times `steps` steps after the first few, at most LIMIT_S of them."""

    def __init__(self, steps: int, warm_up: int) -> None:
        self.steps, self.warm_up = steps, warm_up
        self.done = 0
        self.first = self.last = 0.0
        self.losses: list[float] = []

    def on_train_batch_end(self, _: Any, __: Any, outputs: Any, *___: Any) -> None:
        loss = float(outputs["loss"])  # waits for a GPU too
        now = time.perf_counter()
        self.done += 1
        if self.done == self.warm_up:
            self.first = now
        if self.done > self.warm_up:
            self.last = now
            self.losses.append(loss)
        if self.done >= self.warm_up + self.steps or (self.losses and now - self.first > LIMIT_S):
            raise Enough


def step_s(s: Setting, *, steps: int, warm_up: int = WARM_UP) -> float:
    """Seconds of one training step, by the mean over up to `steps`. The setting's network stays as it is."""
    cfg = deepcopy(s.cfg)
    cfg.trainer.max_epochs = 1_000_000  # the watch ends it
    net = deepcopy(s.net)
    watch = Watch(steps, warm_up)
    s.data.train.workers = cfg.trainer.workers
    with (
        tempfile.TemporaryDirectory(prefix="proj-tune-") as folder,
        setup.quiet(),
        setup.computing(cfg, net, len(s.view.train)),
    ):
        trainer = pl.Trainer(
            **setup.settings(cfg, s.device, cfg.trainer.max_epochs),
            callbacks=[watch],
            logger=False,
            enable_checkpointing=False,
            limit_val_batches=0,
            default_root_dir=Path(folder),
        )
        model = setup.lit(cfg, net, s.view, total=1000, features=s.data.features)
        with suppress(Enough):
            trainer.fit(model, datamodule=s.data)
    return (watch.last - watch.first) / len(watch.losses)


def begin(cfg: Config, view: View, cache: Path) -> Setting:
    """What a training of `cfg` would begin with; `cfg` is settled by it. Features that are lacking are computed."""
    from proj.train import settle

    setup.seed_all(cfg.seed)
    net = nets.build(cfg.model, view)
    device = settle.settle(cfg, net, view)
    with setup.quiet():
        data = setup.batches(cfg, net, view, cache, device, fast=False)
    return Setting(cfg, net, view, data, device)


def free_memory(kind: str) -> int:
    """Bytes that a training could still take: of the GPU, or of the machine and the container it is in."""
    if kind == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    available = _meminfo()
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
        return min(available, limit - used)
    except (OSError, ValueError):  # no container, or no limit
        return available


def _meminfo() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return 4 << 30  # not Linux: a laptop has that much to spare
