"""A run's best network to a bundle, proven equal on the test split."""

from __future__ import annotations

import base64
import copy
import logging
import os
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from loguru import logger
from torch import nn

from proj import bundle, infer, runs
from proj.config import Config, to_dict
from proj.errors import CheckFailed
from proj.train import graph, samples

if TYPE_CHECKING:
    from proj.task import Task
    from proj.train.data import View
    from proj.train.evaluate import Assessment
    from proj.train.net import Net

Array = np.ndarray[Any, np.dtype[Any]]
OPSET = 20
BATCH = 64


class Answer(nn.Module):
    """What is exported: a raw batch to probabilities, or to values in their units."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.net.answer(self.net(x))
        return y


def export(net: Net, task: Task, cfg: Config, view: View, run: Path, tested: Assessment) -> Path:
    """Write run/bundle and return it. `tested` has torch's answers, which ONNX Runtime's must equal.

    Raises CheckFailed above rtol 1e-3 / atol 1e-5; the bundle is then not left behind.
    """
    tmp = run / ".bundle.tmp"
    shutil.rmtree(tmp, ignore_errors=True)
    tmp.mkdir()
    try:
        _graph(Answer(net).eval(), view.x[tested.rows[:2]], tmp / "model.onnx", free_length=view.modality == "text")
        if view.tokenizer is not None:
            view.tokenizer.save(str(tmp / bundle.TOKENIZER))
        bundle.write(tmp, _manifest(task, cfg, view, run, tested))
        worst = parity(tmp, view.x, tested.rows, tested.said)
        logger.info("export: ONNX Runtime equals torch on {} rows (largest difference {:.1e})", len(tested.rows), worst)
        final = run / "bundle"
        shutil.rmtree(final, ignore_errors=True)
        os.replace(tmp, final)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)
    return run / "bundle"


def _graph(model: nn.Module, x: Array, path: Path, *, free_length: bool) -> None:
    # Of weights that are channels-last a pool would write down how its answer lies, in seven nodes.
    model = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    batch = torch.from_numpy(np.ascontiguousarray(np.concatenate([x, x])[:2]))
    length = {1: torch.export.Dim("length", min=2)} if free_length else {}
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
            dynamic_shapes={"x": {0: torch.export.Dim("batch"), **length}},
            verbose=False,
        )
    for c, level in zip(chatty, levels, strict=True):
        c.setLevel(level)
    assert program is not None
    graph.rewrite(program.model)
    program.save(str(path), external_data=False)


def _manifest(task: Task, cfg: Config, view: View, run: Path, tested: Assessment) -> bundle.Manifest:
    record, meta = runs.read(run), view.prepared.meta
    x = np.ascontiguousarray(view.x[tested.rows[:1]])[0]
    return bundle.Manifest(
        name=task.name,
        version=run.name,
        title=task.title,
        question=task.question,
        modality=task.modality,
        kind=task.kind,
        page_input=task.page_input,
        names=tuple(meta.names),
        units=tuple(meta.units),
        preprocess=view.spec.to_dict(),
        data_hash=meta.data_hash,
        metrics=tested.content["metrics"],
        backbone=cfg.model.backbone,
        created=runs.now(),
        synthetic=meta.sample,
        fast=record.fast,
        example=bundle.Example(
            x_base64=base64.b64encode(x.astype(x.dtype.newbyteorder("<")).tobytes()).decode(),
            shape=tuple(x.shape),
            dtype=bundle.DTYPES[task.modality],
            y=tuple(float(p) for p in tested.said[0]),
        ),
        samples=samples.pick(view, tested.rows, task),
        serve=bundle.ServeSettings(**to_dict(cfg.serve)),
    )


def parity(folder: Path, x: Any, rows: Array, said: Array) -> float:
    """Largest absolute difference between the bundle's answers and `said`. Raises CheckFailed above the tolerance."""
    model = infer.load(folder, threads=0)
    worst = 0.0
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        got, want = infer.run(model, np.ascontiguousarray(x[part])), said[start : start + BATCH]
        worst = max(worst, float(np.abs(got - want).max()))
        if not np.allclose(got, want, rtol=infer.RTOL, atol=infer.ATOL):
            raise CheckFailed(
                "the exported model does not give torch's answers",
                found=f"a difference of {worst:.2e} (allowed: {infer.ATOL} + {infer.RTOL} x value)",
                next="report this with the backbone's name",
            )
    return worst
