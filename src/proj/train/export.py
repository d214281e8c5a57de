"""A run's best network to a bundle, proven equal on the test split."""

from __future__ import annotations

import base64
import logging
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loguru import logger
from torch import nn

from proj import bundle, infer, runs
from proj.config import Config, to_dict
from proj.data.store import Prepared
from proj.errors import CheckFailed
from proj.task import Task
from proj.train.net import Net

Array = np.ndarray[Any, np.dtype[Any]]
OPSET = 20
BATCH = 64


class Answer(nn.Module):
    """What is exported: pixels to probabilities."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.net(x).softmax(-1)
        return y


def export(
    net: Net,
    task: Task,
    cfg: Config,
    prepared: Prepared,
    run: Path,
    rows: Array,
    prob: Array,
    metrics: dict[str, float],
) -> Path:
    """Write run/bundle and return it. `prob` are torch's answers for `rows`, which ONNX Runtime's must equal.

    Raises CheckFailed above rtol 1e-3 / atol 1e-5; the bundle is then not left behind.
    """
    tmp = run / ".bundle.tmp"
    shutil.rmtree(tmp, ignore_errors=True)
    tmp.mkdir()
    try:
        _graph(Answer(net).eval(), prepared.x[rows[:2]], tmp / "model.onnx")
        bundle.write(tmp, _manifest(task, cfg, prepared, run, rows, prob, metrics))
        worst = parity(tmp, prepared.x, rows, prob)
        logger.info("export: ONNX Runtime equals torch on {} rows (largest difference {:.1e})", len(rows), worst)
        final = run / "bundle"
        shutil.rmtree(final, ignore_errors=True)
        os.replace(tmp, final)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)
    return run / "bundle"


def _graph(model: nn.Module, x: Array, path: Path) -> None:
    batch = torch.from_numpy(np.ascontiguousarray(np.concatenate([x, x])[:2]))
    chatty = [logging.getLogger(n) for n in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [c.level for c in chatty]
    for c in chatty:
        c.setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of its own deprecated parts
        program = torch.onnx.export(
            model,
            (batch,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["x"],
            output_names=["y"],
            dynamic_shapes={"x": {0: torch.export.Dim("batch")}},
            verbose=False,
        )
    for c, level in zip(chatty, levels, strict=True):
        c.setLevel(level)
    assert program is not None
    program.save(str(path), external_data=False)


def _manifest(
    task: Task,
    cfg: Config,
    prepared: Prepared,
    run: Path,
    rows: Array,
    prob: Array,
    metrics: dict[str, float],
) -> bundle.Manifest:
    record = runs.read(run)
    x = np.ascontiguousarray(prepared.x[rows[0]])
    return bundle.Manifest(
        name=task.name,
        version=run.name,
        title=task.title,
        question=task.question,
        modality="image",
        kind=task.kind,
        page_input=task.page_input,
        names=tuple(prepared.meta.names),
        units=tuple(prepared.meta.units),
        preprocess=prepared.meta.preprocess,
        data_hash=prepared.meta.data_hash,
        metrics=metrics,
        backbone=cfg.model.backbone,
        created=runs.now(),
        synthetic=prepared.meta.sample,
        fast=record.fast,
        example=bundle.Example(
            x_base64=base64.b64encode(x.tobytes()).decode(),
            shape=tuple(x.shape),
            y=tuple(float(p) for p in prob[0]),
        ),
        serve=bundle.ServeSettings(**to_dict(cfg.serve)),
    )


def parity(folder: Path, x: Array, rows: Array, prob: Array) -> float:
    """Largest absolute difference between the bundle's answers and `prob`. Raises CheckFailed above the tolerance."""
    model = infer.load(folder)
    worst = 0.0
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        got, want = infer.run(model, np.ascontiguousarray(x[part])), prob[start : start + BATCH]
        worst = max(worst, float(np.abs(got - want).max()))
        if not np.allclose(got, want, rtol=infer.RTOL, atol=infer.ATOL):
            raise CheckFailed(
                "the exported model does not give torch's answers",
                found=f"a difference of {worst:.2e} (allowed: {infer.ATOL} + {infer.RTOL} x value)",
                next="report this with the backbone's name",
            )
    return worst
