"""A frozen backbone runs once: features of every row on disk, under a key of weights, data and transform."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from loguru import logger

from proj import console
from proj.preprocess.spec import ImageSpec
from proj.train import augment
from proj.train.data import FROZEN_BATCH

if TYPE_CHECKING:
    from proj.config import Config
    from proj.train.data import View
    from proj.train.net import Net


def cached(net: Net, cfg: Config, view: View, folder: Path, device: torch.device) -> np.ndarray[Any, Any]:
    """Features float32 (passes, N, F) of all rows; pass 0 is as they are, the others are augmented.

    Of inputs with several pictures (passes, N, V, F).

    Computed once and kept under `folder`; deleting a file there is always safe.
    """
    path = folder / view.prepared.meta.task / f"{key(net, cfg, view)}.npy"
    if path.is_file():
        logger.info("features: from {}", path.name)
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    path.parent.mkdir(parents=True, exist_ok=True)
    features = compute(net, cfg, view, device, passes=cfg.model.feature_views)
    tmp = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        np.save(tmp, features)
        os.replace(tmp, path)
    finally:
        tmp.unlink(missing_ok=True)
    return features


def compute(net: Net, cfg: Config, view: View, device: torch.device, *, passes: int) -> np.ndarray[Any, Any]:
    """As `cached` gives them, rows in the order of the prepared data. The network keeps its mode."""
    x, n = view.x, len(view.prepared.y)
    mode = net.training
    net = net.to(device).eval()
    several = view.spec.views if isinstance(view.spec, ImageSpec) else 1
    shape = (several, net.head.mean.numel()) if several > 1 else (net.head.mean.numel(),)
    out = np.zeros((passes, n, *shape), np.float32)
    with torch.inference_mode(), console.progress(passes * n, "features", "rows") as bar:
        for i in range(passes):
            for start in range(0, n, FROZEN_BATCH):
                rows = np.arange(start, min(start + FROZEN_BATCH, n))
                batch = net.front(torch.from_numpy(np.ascontiguousarray(x[rows])).to(device))
                if i:
                    g = augment.generator(cfg.data.split_seed, i * n + start)
                    batch = augment.inputs(batch, view.modality, cfg.augment, g)
                out[i, rows] = net.encode_frozen(batch).float().cpu().numpy()
                bar.update(len(batch))
    net.train(mode)  # Lightning trains in the mode that it finds: left in evaluation mode, the head would not drop out
    return out


def key(net: Net, cfg: Config, view: View) -> str:
    """Sixteen hexadecimal digits over everything that decides the features."""
    h = hashlib.sha256()
    for name, value in sorted(net.encoder.state_dict().items()):
        h.update(name.encode())
        h.update(value.detach().cpu().contiguous().numpy().tobytes())
    m = cfg.model
    transform = replace(cfg.augment, mixup=0.0) if m.feature_views > 1 else None  # features are mixed later
    h.update(repr([m.backbone, m.pool, m.input_size_px, view.spec, view.prepared.meta.data_hash]).encode())
    h.update(repr([m.feature_views, transform]).encode())
    return h.hexdigest()[:16]
