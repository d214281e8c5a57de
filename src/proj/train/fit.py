"""One training: a view of prepared data in, checkpoints and metrics.csv out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from loguru import logger

from proj import console
from proj.errors import ResourceError
from proj.train import callbacks, checkpoints, mix, settle, setup, stop, track
from proj.train import net as nets
from proj.train.checkpoints import Writer

if TYPE_CHECKING:
    from pathlib import Path

    from proj.config import Config
    from proj.train.data import View
    from proj.train.net import Net


def fit(
    cfg: Config, view: View, out: Path, *, cache: Path, fast: bool = False, settled: Callable[[], None] | None = None
) -> Net:
    """Train on `view` and return the best network, on the CPU in evaluation mode.

    Goes on from the newest checkpoint that `out` has, exactly; begins where there is none. Writes
    checkpoints/best.ckpt, checkpoints/last.ckpt and metrics.csv under `out`; features of a frozen backbone go to
    `cache`. `settled` is called when `cfg.trainer` holds what the rules of settle.py say, before the first step.
    Raises ConfigError (backbone, weights), CannotCompile, Unreachable (hub), ResourceError (memory, disk).
    """
    kept = cfg.model.freeze and cfg.model.cache
    mix.check(cfg.augment, view.modality, values=view.prepared.meta.kind == "values", features=kept)
    start = checkpoints.newest(out)
    checkpoints.clean(out)
    setup.seed_all(cfg.seed)
    net = _resumed(cfg, view, out, start) if start else nets.build(cfg.model, view)
    nets.keep(net, out)
    try:
        return _fit(cfg, net, view, out, cache, start, fast, settled)
    except (torch.OutOfMemoryError, MemoryError) as e:
        raise ResourceError(
            "memory ran out",
            found=str(e).splitlines()[0],
            next=f"try trainer.batch_size={max(1, cfg.trainer.batch_size // 2)}",
        ) from None


def _resumed(cfg: Config, view: View, out: Path, start: Path) -> Net:
    """The network as it was at the checkpoint: a frozen backbone's features are found under its weights' hash."""
    net = nets.of_run(cfg.model, view, out)
    content = checkpoints.read(start)
    _load(net, content.get("current_model_state", content["state_dict"]))
    logger.info("goes on from step {} of {}", content["global_step"], start.name)
    return net


def _fit(
    cfg: Config,
    net: Net,
    view: View,
    out: Path,
    cache: Path,
    start: Path | None,
    fast: bool,
    settled: Callable[[], None] | None,
) -> Net:
    epochs = 1 if fast else cfg.trainer.max_epochs
    device = settle.settle(cfg, net, view)
    if settled:
        settled()
    data = setup.batches(cfg, net, view, cache, device, fast=fast)
    total = epochs * len(data.train)
    model = setup.lit(cfg, net, view, total=total, features=data.features)
    writer = Writer()
    with setup.quiet(), stop.listening() as asked, console.progress(total, "train", "batches") as bar:
        try:
            with setup.computing(cfg, net, len(view.train)):
                trainer = pl.Trainer(
                    **setup.settings(cfg, device, epochs),
                    callbacks=callbacks.every(cfg, out, bar, writer, asked),
                    logger=track.loggers(cfg, out, resumed=start is not None) or False,
                    plugins=[writer],
                    profiler=_profiler(cfg, out / "profile"),
                    default_root_dir=out,
                )
                trainer.fit(model, datamodule=data, ckpt_path=start, weights_only=True)
        finally:
            writer.teardown()
    checkpoints.settle(out)
    load_checkpoint(net, out / "checkpoints" / checkpoints.BEST)
    return net.cpu().eval()


def _profiler(cfg: Config, folder: Path) -> Any:
    if cfg.trainer.profiler == "off":
        return None
    from proj.train import profile

    return profile.profiler(cfg.trainer.profiler, folder)


def load_checkpoint(net: Net, path: Path) -> None:
    """Load a checkpoint's network. Raises ResourceError when it is missing or broken."""
    content = checkpoints.read(path)
    try:
        _load(net, content["state_dict"])
    except RuntimeError as e:
        raise ResourceError(
            f"{path} does not fit this run's model", found=str(e).splitlines()[0], next="train again: `proj train`"
        ) from None


def _load(net: Net, state: dict[str, torch.Tensor]) -> None:
    """`state`: of a LitModel, whose network it is a part of."""
    net.load_state_dict({k.removeprefix("net."): v for k, v in state.items() if k.startswith("net.")})
