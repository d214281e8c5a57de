"""`proj train --dry-run`: everything that can be checked before the first batch, and what would happen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loguru import logger

from proj import console, runs
from proj.data import prepare, store
from proj.errors import ConfigError, ResourceError
from proj.fetch import get
from proj.verbs.job import Job

RUN_BYTES = 500_000_000  # a run with a mid-sized backbone: two checkpoints, a bundle, a report


def plan(job: Job, *, fast: bool) -> dict[str, Any]:
    """What a run would do. Raises what the run itself would raise: ConfigError, DataError, ResourceError."""
    rows, state = _data(job, fast)
    free = runs.free_bytes(job.project.root)
    if free < RUN_BYTES:
        raise ResourceError(f"a run needs some {console.size(RUN_BYTES)}", found=f"{console.size(free)} are free")
    device, precision = _device(job)
    _model(job)
    cfg = job.cfg
    train = None if rows is None else round(rows * (1 - cfg.data.val_share - cfg.data.test_share))
    epochs = 1 if fast else cfg.trainer.max_epochs
    steps = None if train is None else epochs * (1 if fast else -(-train // cfg.trainer.batch_size))
    return {
        "task": job.task.name,
        "data": state,
        "rows": rows,
        "backbone": cfg.model.backbone + (", frozen" if cfg.model.freeze else ""),
        "weights": cfg.model.weights or ("from the hub" if cfg.model.pretrained else "random"),
        "device": f"{device}, {precision}",
        "epochs": epochs,
        "steps": steps,
        "folds": cfg.trainer.folds,
        "free_disk": console.size(free),
        "run": str(job.project.models / job.task.name),
    }


def _data(job: Job, fast: bool) -> tuple[int | None, str]:
    cfg = job.cfg
    if cfg.data.source == "sample":
        return prepare.SAMPLE_ROWS, "synthetic sample"
    wanted = job.task.source(cfg.task) if cfg.data.source == "default" else cfg.data.source
    default = job.task.source(job.task.options())
    if not get.present(wanted, default=default, raw=job.project.data / "raw", task=job.task.name):
        return None, f"would be fetched from {wanted}"
    source = prepare.locate(job.task, cfg, job.project.data)
    folder = job.project.data / "prepared" / job.task.name / prepare.key(job.task, cfg, source, fast)
    if (folder / "meta.json").is_file():
        return len(store.open_(folder).x), f"prepared: {folder}"
    return len(prepare.rows(job.task, cfg, source, fast)), f"would be prepared from {source.name}"


def _device(job: Job) -> tuple[str, str]:
    logger.info("loading torch")
    from proj.train import settle

    return settle.kind(job.cfg), job.cfg.trainer.precision


def _model(job: Job) -> None:
    import timm

    m = job.cfg.model
    if job.task.modality == "image" and not timm.is_model(m.backbone):
        from proj.train import weights

        raise weights.unknown_backbone(m.backbone)
    if m.weights and not Path(m.weights).is_file():
        raise ConfigError(f"model.weights={m.weights} is not a file", next="give a .safetensors or .pt file")


def show(content: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        console.json_out(content)
        return
    rows = [(k, f"{v:,}" if isinstance(v, int) else str(v)) for k, v in content.items() if v is not None]
    console.outcome(rows, next="the same command without --dry-run")
