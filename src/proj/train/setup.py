"""The parts that a training is put together from: also those of one that is only timed or profiled."""

from __future__ import annotations

import logging
import random
import re
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from loguru import logger

from proj.errors import CannotCompile, ConfigError
from proj.train import features, settle
from proj.train.data import Batches, DataModule
from proj.train.model import LitModel

if TYPE_CHECKING:
    from pathlib import Path

    from proj.config import Config
    from proj.train.data import View
    from proj.train.net import Net
    from proj.train.settle import Device


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def lit(cfg: Config, net: Net, view: View, *, total: int, features: bool) -> LitModel:
    """`total`: steps of the training. `features`: batches hold a frozen backbone's features."""
    return LitModel(
        net,
        cfg,
        view.modality,
        outputs=view.outputs,
        total_steps=total,
        weights=_class_weights(cfg, view),
        features=features,
    )


def settings(cfg: Config, device: Device, epochs: int) -> dict[str, Any]:
    """What Lightning's Trainer is told of a settled config."""
    return {
        "accelerator": device.kind,
        "devices": 1,
        "precision": device.precision,
        "max_epochs": epochs,
        "gradient_clip_val": cfg.trainer.grad_clip or None,
        "deterministic": "warn" if cfg.trainer.deterministic else False,
        "num_sanity_val_steps": 0,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }


@contextmanager
def computing(cfg: Config, net: Net, rows: int) -> Iterator[None]:
    """With the threads and the compilation that a settled config names; all is as before at the end.

    Lightning's and torch's ways of ending become ours: KeyboardInterrupt, ConfigError where batches of one of the
    `rows` to train on cannot be learned from, CannotCompile.
    """
    threads, products = torch.get_num_threads(), torch.get_float32_matmul_precision()
    fills = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.set_num_threads(cfg.trainer.threads)
    # Deterministic mode writes into every new tensor what nothing may read: up to a sixth of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")  # TF32
    if cfg.trainer.compile == "always":
        net.encoder.compile()
    try:
        yield
    except ValueError as e:
        if "more than 1 value per channel" not in str(e):
            raise
        raise ConfigError(
            f"{cfg.model.backbone} cannot learn from batches of one row",
            found=f"{rows} rows to train on, trainer.batch_size={cfg.trainer.batch_size}",
            next="try trainer.batch_size=32, a larger model.input_size_px, or more data",
        ) from None
    except (AssertionError, RuntimeError) as e:
        if cfg.trainer.compile != "always" or not _of_the_compiler(e):
            raise
        raise CannotCompile(
            f"{cfg.model.backbone} cannot be compiled here",
            found=f"torch {torch.__version__}: {next(iter(str(e).splitlines()), type(e).__name__)}",
            next="train with trainer.compile=never",
        ) from e
    except SystemExit:  # Lightning ends the process on Ctrl-C; a command has things to put away first
        raise KeyboardInterrupt from None
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(products)
        torch.utils.deterministic.fill_uninitialized_memory = fills  # type: ignore[attr-defined]
        net.encoder._compiled_call_impl = None


def _of_the_compiler(e: Exception) -> bool:
    """It refused or failed; or its code, that something is not as the compiler had foreseen it (an assertion)."""
    if isinstance(e, AssertionError):
        frames = traceback.walk_tb(e.__traceback__)
        return any(str(f.f_globals.get("__name__")).startswith("torch._inductor") for f, _ in frames)
    return isinstance(e, torch._dynamo.exc.TorchDynamoException)


def batches(cfg: Config, net: Net, view: View, cache: Path, device: Device, *, fast: bool) -> DataModule:
    """What a training of a settled config reads: rows, or a frozen backbone's features, computed where they lack."""
    kept = cfg.model.freeze and cfg.model.cache
    return _features(cfg, net, view, cache, device, fast) if kept else _raw(cfg, net, view, device, fast)


def _raw(cfg: Config, net: Net, view: View, device: Device, fast: bool) -> DataModule:
    if cfg.model.freeze:  # the head starts as it does with cached features
        _standardise(net, features.compute(net, cfg, view, device.torch, passes=1), view)
    y, size = view.prepared.y, cfg.trainer.batch_size
    ahead = _ahead(cfg, device, fast)
    train = Batches(view.x, y, view.train, size, seed=cfg.seed, **ahead)
    return DataModule(train, Batches(view.x, y, view.val, size, **ahead))


def frozen_features(cfg: Config, net: Net, view: View, cache: Path) -> np.ndarray[Any, Any] | None:
    """Features float32 (N, F) that training kept of all rows: exactly what the exported network computes.

    None where the backbone learns, where nothing is kept, or where what is kept was computed in bf16.
    """
    if not (cfg.model.freeze and cfg.model.cache) or cfg.model.feature_precision != "32":
        return None
    kept: np.ndarray[Any, Any] = features.cached(net, cfg, view, cache, settle.device(cfg).torch)[0]
    return kept


def _features(cfg: Config, net: Net, view: View, cache: Path, device: Device, fast: bool) -> DataModule:
    """Features in the pictures' place: all views of the training rows, the first view of the others."""
    f = features.cached(net, cfg, view, cache, device.torch)
    _standardise(net, f, view)
    passes, n = f.shape[:2]
    y = np.concatenate([view.prepared.y] * passes)
    rows = np.concatenate([view.train + i * n for i in range(passes)])
    size = cfg.trainer.batch_size
    flat = f.reshape(passes * n, *f.shape[2:])
    ahead = _ahead(cfg, device, fast)
    return DataModule(
        Batches(flat, y, rows, size, seed=cfg.seed, **ahead),
        Batches(flat, y, view.val, size, **ahead),
        features=True,
    )


def _ahead(cfg: Config, device: Device, fast: bool) -> dict[str, Any]:
    """How batches are read, whatever is in them."""
    return {"limit": int(fast), "workers": cfg.trainer.workers, "pin": device.kind == "cuda"}


def _standardise(net: Net, f: np.ndarray[Any, Any], view: View) -> None:
    """`f`: features (passes, N, F) or (passes, N, V, F). The head's statistics are of the training rows as they are."""
    net.cpu().head.standardise(torch.from_numpy(f[0][view.train]))


def _class_weights(cfg: Config, view: View) -> torch.Tensor | None:
    if not cfg.model.class_weights or view.prepared.meta.kind == "values":
        return None
    counts = np.bincount(view.prepared.y[view.train], minlength=view.outputs).clip(1)
    return torch.tensor(counts.sum() / (len(counts) * counts), dtype=torch.float32)


class quiet:  # noqa: N801 - used as a context manager, like contextlib's own
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
        "ended before the epoch ended",  # Batches goes on from where it was
        "dirpath",  # of another machine or folder, where the run was before
        "Found keys that are not in the model state dict",
        "Profiler clears events",  # torch's, where there is a GPU: one cycle is all that is recorded
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
