"""One training: a view of prepared data in, checkpoints and metrics.csv out."""

from __future__ import annotations

import logging
import random
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
import torch
from loguru import logger

from proj import console
from proj.errors import ConfigError, ResourceError
from proj.preprocess.spec import ImageSpec
from proj.train import callbacks, features, track
from proj.train import net as nets
from proj.train.data import Batches, DataModule, View
from proj.train.images import ImageEncoder
from proj.train.model import LitModel

if TYPE_CHECKING:
    from proj.config import Config
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


def pick_device(cfg: Config) -> Device:
    """The device asked for, or the best there is. bf16 is chosen by itself only where it is faster: on CUDA."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    wanted = cfg.trainer.device
    kind = next(k for k in ("cuda", "mps", "cpu") if there[k]) if wanted == "auto" else wanted
    if not there[kind]:
        raise ConfigError(f"trainer.device={kind} is not there", next="trainer.device=auto takes the best there is")
    bf16 = cfg.trainer.precision == "bf16" or (cfg.trainer.precision == "auto" and kind == "cuda")
    return Device(kind, "bf16-mixed" if bf16 else "32-true")


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def fit(cfg: Config, view: View, out: Path, *, cache: Path, fast: bool = False) -> Net:
    """Train on `view` and return the best network, on the CPU in evaluation mode.

    Writes checkpoints/best.ckpt, checkpoints/last.ckpt and metrics.csv under `out`; features of a frozen backbone go
    to `cache`. Raises ConfigError (backbone, weights), Unreachable (hub), ResourceError (memory).
    """
    device = pick_device(cfg)
    seed_all(cfg.seed)
    net = nets.build(cfg.model, view)
    try:
        return _fit(cfg, net, view, out, cache, device, fast)
    except (torch.OutOfMemoryError, MemoryError) as e:
        raise ResourceError(
            "memory ran out",
            found=str(e).splitlines()[0],
            next=f"try trainer.batch_size={max(1, cfg.trainer.batch_size // 2)}",
        ) from None


def _fit(cfg: Config, net: Net, view: View, out: Path, cache: Path, device: Device, fast: bool) -> Net:
    data = (
        _features(cfg, net, view, cache, device, fast)
        if cfg.model.freeze and cfg.model.cache
        else _raw(cfg, net, view, device, fast)
    )
    epochs = 1 if fast else cfg.trainer.max_epochs
    total = epochs * len(data.train)
    model = LitModel(
        net,
        cfg,
        view.modality,
        outputs=view.outputs,
        total_steps=total,
        weights=_class_weights(cfg, view),
        features=data.features,
    )
    with _quiet(), console.progress(total, "train", "batches") as bar:
        trainer = pl.Trainer(
            accelerator=device.kind,
            devices=1,
            precision=device.precision,  # type: ignore[arg-type]
            max_epochs=epochs,
            callbacks=callbacks.every(cfg, out, bar),
            logger=track.loggers(cfg, out) or False,
            gradient_clip_val=cfg.trainer.grad_clip or None,
            deterministic="warn" if cfg.trainer.deterministic else False,
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=out,
        )
        try:
            with _threads(small=data.features or _is_small(cfg, net, view)):
                trainer.fit(model, datamodule=data)
        except ValueError as e:
            if "more than 1 value per channel" not in str(e):
                raise
            raise ConfigError(
                f"{cfg.model.backbone} cannot learn from batches of one row",
                found=f"{len(view.train)} rows to train on, trainer.batch_size={cfg.trainer.batch_size}",
                next="try trainer.batch_size=32, a larger model.input_size_px, or more data",
            ) from None
        except SystemExit:  # Lightning ends the process on Ctrl-C; the command has things to put away first
            raise KeyboardInterrupt from None
    load_checkpoint(net, out / "checkpoints" / "best.ckpt")
    return net.cpu().eval()


def _raw(cfg: Config, net: Net, view: View, device: Device, fast: bool) -> DataModule:
    if cfg.model.freeze:  # the head starts as it does with cached features
        _standardise(net, features.compute(net, cfg, view, device.torch, passes=1), view)
    y, size, limit = view.prepared.y, cfg.trainer.batch_size, int(fast)
    train = Batches(view.x, y, view.train, size, seed=cfg.seed, limit=limit)
    return DataModule(train, Batches(view.x, y, view.val, size, limit=limit))


def frozen_features(cfg: Config, net: Net, view: View, cache: Path) -> np.ndarray[Any, Any] | None:
    """Features float32 (N, F) that training kept of all rows, or None where the backbone learns or nothing is kept."""
    if not (cfg.model.freeze and cfg.model.cache):
        return None
    kept: np.ndarray[Any, Any] = features.cached(net, cfg, view, cache, torch.device("cpu"))[0]
    return kept


def _features(cfg: Config, net: Net, view: View, cache: Path, device: Device, fast: bool) -> DataModule:
    """Features in the pictures' place: all views of the training rows, the first view of the others."""
    f = features.cached(net, cfg, view, cache, device.torch)
    _standardise(net, f, view)
    passes, n = f.shape[:2]
    y = np.concatenate([view.prepared.y] * passes)
    rows = np.concatenate([view.train + i * n for i in range(passes)])
    size, limit = cfg.trainer.batch_size, int(fast)
    flat = f.reshape(passes * n, *f.shape[2:])
    return DataModule(
        Batches(flat, y, rows, size, seed=cfg.seed, limit=limit),
        Batches(flat, y, view.val, size, limit=limit),
        features=True,
    )


def _standardise(net: Net, f: np.ndarray[Any, Any], view: View) -> None:
    """`f`: features (passes, N, F) or (passes, N, V, F). The head's statistics are of the training rows as they are."""
    net.cpu().head.standardise(torch.from_numpy(f[0][view.train]))


def _class_weights(cfg: Config, view: View) -> torch.Tensor | None:
    if not cfg.model.class_weights or view.prepared.meta.kind == "values":
        return None
    counts = np.bincount(view.prepared.y[view.train], minlength=view.outputs).clip(1)
    return torch.tensor(counts.sum() / (len(counts) * counts), dtype=torch.float32)


def _is_small(cfg: Config, net: Net, view: View) -> bool:
    """Batches of few pixels, of series, or of ids that are only looked up."""
    if isinstance(net.encoder, ImageEncoder) and isinstance(view.spec, ImageSpec):
        height_px, width_px = net.encoder.pixels.size
        rows = min(cfg.trainer.batch_size, len(view.train)) * view.spec.views
        return rows * height_px * width_px * view.spec.channels < SMALL_BATCH
    return view.modality == "series" or cfg.model.backbone == "linear"


@contextmanager
def _threads(*, small: bool) -> Iterator[None]:
    """One thread for small batches: a second one waits more than it works.

    On two idle cores it would save a quarter of digits' time; beside any other process it costs four times as much,
    because each of thousands of small operations ends only when both threads had their turn.
    """
    before = torch.get_num_threads()
    if small:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def load_checkpoint(net: Net, path: Path) -> None:
    """Load a checkpoint's network. Raises ResourceError when it is missing or broken."""
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        state = {k.removeprefix("net."): v for k, v in content["state_dict"].items() if k.startswith("net.")}
        net.load_state_dict(state)
    except Exception as e:  # pickle, zip and torch each raise their own
        raise ResourceError(
            f"{path} cannot be loaded",
            found=str(e).splitlines()[0] if str(e) else type(e).__name__,
            next="train again: `proj train`",
        ) from None


class _quiet:  # noqa: N801 - used as a context manager, like contextlib's own
    """Keep Lightning's chatter about things that are as they should be off the screen; real warnings go to the log."""

    USUAL = (
        "does not have many workers",
        "Checkpoint directory",
        "The number of training batches",
        "Starting from v1.9",
        "is not shuffled",
        "LeafSpec",
        "module(s) in eval mode",
        "isinstance(treespec",
    )

    def __enter__(self) -> None:
        self.catch = warnings.catch_warnings()
        self.catch.__enter__()
        for text in self.USUAL:
            warnings.filterwarnings("ignore", message=f".*{re.escape(text)}.*")
        warnings.showwarning = lambda message, *_, **__: logger.warning("{}", message)
        for name in (
            "pytorch_lightning.utilities.rank_zero",
            "pytorch_lightning.accelerators.cuda",
            "pytorch_lightning",
        ):
            logging.getLogger(name).setLevel(logging.WARNING)

    def __exit__(self, *exc: object) -> None:
        self.catch.__exit__(None, None, None)
