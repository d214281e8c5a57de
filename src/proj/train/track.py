"""Experiment trackers beside the run's own metrics.csv."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

from loguru import logger
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

from proj import runs
from proj.config import Config, to_dict

ID = "wandb-id.json"


def loggers(cfg: Config, run: Path, *, resumed: bool = False) -> list[Logger]:
    """The trackers that `track.kind` names. Without a key W&B runs offline, and says so; nothing prompts.

    A run that goes on does so under the same id.
    """
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
        identity = runs.read_json(run / ID, "") or secrets.token_hex(8)
        runs.write_json(run / ID, identity)
        more: dict[str, Any] = {"resume": "allow"} if resumed else {}
        return [
            WandbLogger(
                run.name, save_dir=run, project=project, offline=offline, config=to_dict(cfg), id=identity, **more
            )
        ]
    return []


def _has_key() -> bool:
    """An API key in the environment, or in the netrc file that `wandb login` writes."""
    netrc = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    try:
        return bool(os.environ.get("WANDB_API_KEY")) or "api.wandb.ai" in netrc.read_text(encoding="utf-8")
    except OSError:
        return False
