"""A frozen backbone runs once: features of every row on disk, under a key of weights, data and transform."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loguru import logger

from proj import console
from proj.config import Config
from proj.train import augment
from proj.train.data import View
from proj.train.net import FROZEN_BATCH, Net


def cached(net: Net, cfg: Config, view: View, folder: Path, device: torch.device) -> np.ndarray[Any, Any]:
    """Features float32 (views, N, F) of all rows; view 0 is as it is, the others are augmented.

    Computed once and kept under `folder`; deleting a file there is always safe.
    """
    path = folder / view.prepared.meta.task / f"{key(net, cfg, view)}.npy"
    if path.is_file():
        logger.info("features: from {}", path.name)
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    path.parent.mkdir(parents=True, exist_ok=True)
    features = compute(net, cfg, view, device, views=cfg.model.feature_views)
    tmp = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        np.save(tmp, features)
        os.replace(tmp, path)
    finally:
        tmp.unlink(missing_ok=True)
    return features


def compute(net: Net, cfg: Config, view: View, device: torch.device, *, views: int) -> np.ndarray[Any, Any]:
    """float32 (views, N, F), rows in the order of the prepared data. The network keeps its mode."""
    x, n = view.prepared.x, len(view.prepared.x)
    mode = net.training
    net = net.to(device).eval()
    out = np.zeros((views, n, net.head.mean.numel()), np.float32)
    with torch.inference_mode(), console.progress(views * n, "features", "rows") as bar:
        for v in range(views):
            for start in range(0, n, FROZEN_BATCH):
                batch = torch.from_numpy(np.array(x[start : start + FROZEN_BATCH])).to(device)
                pixels = net.pixels(batch)
                if v:
                    g = augment.generator(cfg.data.split_seed, v * n + start)
                    pixels = augment.pictures(pixels, cfg.augment, g)
                out[v, start : start + len(batch)] = net.encode_frozen(pixels).float().cpu().numpy()
                bar.update(len(batch))
    net.train(mode)  # Lightning trains in the mode that it finds: left in evaluation mode, the head would not drop out
    return out


def key(net: Net, cfg: Config, view: View) -> str:
    """Sixteen hexadecimal digits over everything that decides the features."""
    h = hashlib.sha256()
    for name, value in sorted(net.backbone.state_dict().items()):
        h.update(name.encode())
        h.update(value.detach().cpu().contiguous().numpy().tobytes())
    a = cfg.augment
    transform = (
        [a.flip, a.rotate_deg, a.shift, a.scale, a.brightness, a.contrast] if cfg.model.feature_views > 1 else []
    )
    h.update(
        repr([cfg.model.backbone, cfg.model.pool, net.mean.flatten().tolist(), net.std.flatten().tolist()]).encode()
    )
    h.update(repr([net.pixels.size, view.prepared.meta.data_hash, cfg.model.feature_views, transform]).encode())
    return h.hexdigest()[:16]
