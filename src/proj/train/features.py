"""A frozen backbone runs once: features of every row on disk, under a key of weights, data and transform."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from proj import console
from proj.data import cache
from proj.preprocess.spec import ImageSpec
from proj.train import augment
from proj.train.data import FROZEN_BATCH

if TYPE_CHECKING:
    from proj.config import Config
    from proj.train.data import View
    from proj.train.net import Net

Array = np.ndarray[Any, np.dtype[Any]]
DECIDE = ("backbone", "pretrained", "weights", "pool", "input_size_px", "feature_views", "feature_precision")


def cached(net: Net, cfg: Config, view: View, folder: Path, device: torch.device) -> Array:
    """Features float32 (passes, N, F) of all rows; pass 0 is as they are, the others are augmented.

    Of inputs with several pictures (passes, N, V, F).

    Computed once and kept under `folder`, straight on the disk: they may be larger than memory.
    """
    return cache.once(
        folder,
        folder / view.prepared.meta.task / f"{key(net, cfg, view, device)}.npy",
        _shape(net, view, cfg.model.feature_views),
        _about(cfg, view),
        limit_bytes=cfg.data.cache_gb * 1e9,
        fill=lambda out: _fill(out, net, cfg, view, device),
    )


def compute(net: Net, cfg: Config, view: View, device: torch.device, *, passes: int) -> Array:
    """As `cached` gives them, in memory."""
    out = np.zeros(_shape(net, view, passes), np.float32)
    _fill(out, net, cfg, view, device)
    return out


def _shape(net: Net, view: View, passes: int) -> tuple[int, ...]:
    several = view.spec.views if isinstance(view.spec, ImageSpec) else 1
    one = (several, net.head.mean.numel()) if several > 1 else (net.head.mean.numel(),)
    return (passes, len(view.prepared.y), *one)


def _fill(out: Array, net: Net, cfg: Config, view: View, device: torch.device) -> None:
    """Rows in the order of the prepared data. The network keeps its mode and its device."""
    passes, n = out.shape[:2]
    mode, home = net.training, net.head.mean.device
    net = net.to(device).eval()
    with torch.inference_mode(), console.progress(passes * n, "features", "rows") as bar:
        for i in range(passes):
            for start in range(0, n, FROZEN_BATCH):
                rows = np.arange(start, min(start + FROZEN_BATCH, n))
                batch = net.front(torch.from_numpy(np.ascontiguousarray(view.x[rows])).to(device))
                if i:
                    g = augment.generator(cfg.data.split_seed, i * n + start)
                    batch = augment.inputs(batch, view.modality, cfg.augment, g)
                with _precision(cfg, device):
                    f = net.encode_frozen(batch)
                out[i, rows] = f.float().cpu().numpy()
                bar.update(len(batch))
    # Lightning trains in the mode that it finds: left in evaluation mode, the head would not drop out.
    net.to(home).train(mode)


def _precision(cfg: Config, device: torch.device) -> AbstractContextManager[Any]:
    if cfg.model.cache and cfg.model.feature_precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return _whole()


@contextmanager
def _whole() -> Iterator[None]:
    """All bits of float32, in which the exported network computes: a GPU's TF32 has ten of 23 in its mantissa."""
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


def key(net: Net, cfg: Config, view: View, device: torch.device) -> str:
    """Sixteen hexadecimal digits over everything that decides the features, to their last bit."""
    h = hashlib.sha256()
    for name, value in sorted(net.encoder.state_dict().items()):
        h.update(name.encode())
        h.update(value.detach().cpu().contiguous().numpy().tobytes())
    m = cfg.model
    # Features are mixed later.
    transform = (replace(cfg.augment, mixup=0.0, cutmix=0.0), cfg.data.split_seed) if m.feature_views > 1 else None
    h.update(repr([m.backbone, m.pool, m.input_size_px, view.spec, view.prepared.meta.data_hash]).encode())
    h.update(repr([m.feature_views, transform]).encode())
    h.update(repr([m.feature_precision, device.type, torch.__version__]).encode())
    return h.hexdigest()[:16]


def _about(cfg: Config, view: View) -> cache.About:
    """The settings that decide, as they are typed; those that are the defaults left out."""
    sections: list[tuple[str, Any, tuple[str, ...]]] = [
        ("model", cfg.model, DECIDE),
        ("data", cfg.data, ("source", "split_seed")),
        ("task", cfg.task, tuple(f.name for f in fields(cfg.task) if f.name != "name")),
    ]
    if cfg.model.feature_views > 1:
        sections.append(
            ("augment", cfg.augment, tuple(f.name for f in fields(cfg.augment) if f.name not in {"mixup", "cutmix"}))
        )
    settings = {
        f"{name}.{k}": getattr(of, k)
        for name, of, names in sections
        for k in names
        if getattr(of, k) != getattr(type(of)(), k)
    }
    prepared = view.prepared
    return cache.About(what="features", prepared=prepared.meta.key, settings=settings, rows=len(prepared.y))
