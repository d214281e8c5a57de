"""What a config leaves open is settled here, by fixed rules, before a run begins; the run's config.yaml holds it.

Threads, precision and compilation change the last bits of weights. A rule of backbone and processor gives the same
answer each time, where a timing would not: so that equal runs are equal. `proj train tune=...` times instead.
"""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from proj import engines
from proj.errors import ConfigError
from proj.preprocess.spec import ImageSpec
from proj.train.images import ImageEncoder

if TYPE_CHECKING:
    from proj.config import Config
    from proj.train.data import View
    from proj.train.net import Net

SMALL_BATCH = 50_000  # pixels a batch; digits have 33,000, 64 drawings of 28 x 28 have just over


@dataclass(frozen=True)
class Device:
    """`kind`: cpu, cuda or mps. `precision`: as Lightning spells it."""

    kind: str
    precision: str

    @property
    def torch(self) -> torch.device:
        return torch.device(self.kind)


def kind(cfg: Config) -> str:
    """The kind of device asked for, or the best there is. Raises ConfigError when it is not there."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    wanted = cfg.trainer.device
    found = next(k for k in ("cuda", "mps", "cpu") if there[k]) if wanted == "auto" else wanted
    if not there[found]:
        raise ConfigError(f"trainer.device={found} is not there", next="trainer.device=auto takes the best there is")
    return found


def settle(cfg: Config, net: Net, view: View) -> Device:
    """Replace what `cfg.trainer` leaves open by what the rules say."""
    t = cfg.trainer
    on = kind(cfg)
    small = is_small(cfg, net, view)
    if t.precision == "auto":
        t.precision = "bf16" if on == "cuda" or (on == "cpu" and not small and bf16_pays(net)) else "32"
    if not t.threads:
        t.threads = 1 if small else torch.get_num_threads()
    if t.compile == "always" and on == "cpu" and not has_compiler():
        raise ConfigError("trainer.compile=always needs a C++ compiler", next="install g++, or trainer.compile=never")
    return device(cfg)


def device(cfg: Config) -> Device:
    """Of a config that is settled."""
    return Device(kind(cfg), "bf16-mixed" if cfg.trainer.precision == "bf16" else "32-true")


def bf16_pays(net: Net) -> bool:
    """On a CPU: where its registers multiply bf16, and the backbone learns and has no depthwise convolutions.

    `proj train tune=precision` times it: resnet18 gains, mobilenetv3 loses, whose depthwise convolutions only convert.
    """
    if net.frozen or not isinstance(net.encoder, ImageEncoder) or not engines.has_bf16():
        return False
    convs = [m for m in net.encoder.modules() if isinstance(m, nn.Conv2d)]
    return bool(convs) and all(c.groups == 1 for c in convs)


def has_compiler() -> bool:
    """Compiling for the CPU calls one."""
    return any(map(shutil.which, ("g++", "clang++", "c++")))


def processor() -> str:
    """Its name, with what it can multiply."""
    try:
        lines = engines.CPUINFO.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        lines = []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{name or platform.processor()} {'bf16' if engines.has_bf16() else ''}".strip()


def is_small(cfg: Config, net: Net, view: View) -> bool:
    """Batches of features, of few pixels, of series, or of ids that are only looked up: one thread does them best.

    On two idle cores a second one would save a quarter of digits' time; beside any other process it costs four times
    as much, because each of thousands of small operations ends only when both threads had their turn.
    """
    if cfg.model.freeze and cfg.model.cache:
        return True
    if isinstance(net.encoder, ImageEncoder) and isinstance(view.spec, ImageSpec):
        height_px, width_px = net.encoder.pixels.size
        rows = min(cfg.trainer.batch_size, len(view.train)) * view.spec.views
        return rows * height_px * width_px * view.spec.channels < SMALL_BATCH
    return view.modality == "series" or cfg.model.backbone == "linear"
