"""From the words on the command line to a task and its checked config."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from proj import compose, task
from proj.compose import Composed
from proj.config import Config
from proj.errors import DataError, MissingExtra
from proj.project import Project
from proj.task import Options, Task

if TYPE_CHECKING:
    from proj.data.store import Prepared
    from proj.runs import Record

TRAIN_PACKAGES = (
    "torch",
    "pytorch_lightning",
    "timm",
    "transformers",
    "hydra",
    "torchmetrics",
    "sklearn",
    "onnxscript",
    "matplotlib",
    "jinja2",
)


@dataclass(frozen=True)
class Job:
    project: Project
    composed: Composed
    task: Task

    @property
    def cfg(self) -> Config:
        return self.composed.config


def need_train(verb: str) -> None:
    """Raise MissingExtra when the `train` extra is not installed. Imports none of it."""
    missing = [p for p in TRAIN_PACKAGES if importlib.util.find_spec(p) is None]
    if missing:
        raise MissingExtra(
            f"`proj {verb}` needs the extra `train`",
            found=f"not installed: {', '.join(missing)}",
            next="in a clone: `uv sync --extra train`; from a wheel: install 'FILE.whl[train]'",
        )


def options_of(name: str) -> type[Options]:
    return task.get(name).options


def job(overrides: list[str], project: Project) -> Job:
    """Compose and find the task. Raises ConfigError and UsageError."""
    composed = compose.compose(overrides, project.configs, options_of)
    found = task.get(composed.config.task.name)
    m = composed.config.model
    m.backbone = m.backbone or {"image": m.image, "text": m.text, "series": m.series}[found.modality]
    return Job(project, composed, found)


def of_run(run: Path, project: Project, overrides: list[str] | None = None) -> Job:
    """The job that made a run, from its config.yaml; `overrides` change single values."""
    composed = compose.load(run / "config.yaml", overrides or [], options_of)
    return Job(project, composed, task.get(composed.config.task.name))


def same_data(prepared: Prepared, run: Path, record: Record) -> None:
    """Raise DataError where the data are no longer those that the run was trained on."""
    if prepared.meta.data_hash != record.data_hash:
        raise DataError(
            f"the data of {run.name} have changed since it was trained",
            found=f"{prepared.meta.source} now has hash {prepared.meta.data_hash[:12]}, then {record.data_hash[:12]}",
            next="bring the old data back (`dvc checkout`), or train anew: `proj train`",
        )
