"""Experiment trackers beside the run's own metrics.csv."""

from __future__ import annotations

import os
from pathlib import Path

from loguru import logger
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

from proj.config import Config, to_dict


def loggers(cfg: Config, run: Path) -> list[Logger]:
    """The trackers that `track.kind` names. Without a key W&B runs offline, and says so; nothing prompts."""
    kind, project = cfg.track.kind, cfg.track.project
    if kind == "tensorboard":
        board = TensorBoardLogger(run, name="tensorboard", version="")
        logger.info("tensorboard --logdir {}", run / "tensorboard")
        return [board]
    if kind == "wandb":
        offline = os.environ.get("WANDB_MODE", "") == "offline" or not _has_key()
        if offline:
            logger.warning(
                "W&B runs offline: no WANDB_API_KEY; `wandb sync {}/wandb/offline-*` sends the run later", run
            )
        os.environ.setdefault("WANDB_SILENT", "true")
        return [WandbLogger(run.name, save_dir=run, project=project, offline=offline, config=to_dict(cfg))]
    return []


def _has_key() -> bool:
    """An API key in the environment, or in the netrc file that `wandb login` writes."""
    netrc = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    try:
        return bool(os.environ.get("WANDB_API_KEY")) or "api.wandb.ai" in netrc.read_text(encoding="utf-8")
    except OSError:
        return False
