"""`proj.train.export`: a bundle gives torch's answers, or there is none."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from made_projects import Finished, net, prepared, view

from proj import bundle, infer
from proj.errors import BundleError, CheckFailed
from proj.preprocess.spec import ImageSpec
from proj.train import evaluate, export, fit, inputs
from proj.train.data import View
from proj.train.net import Net


def whole(finished: Finished) -> View:
    return inputs.view(prepared(finished.job), finished.job.cfg.model)


@pytest.fixture
def made(finished: Finished, tmp_path: Path) -> tuple[Path, Net]:
    """A copy of the finished run, and its network."""
    run = Path(shutil.copytree(finished.run, tmp_path / "run"))
    n = net(finished.job, view(finished.job))
    fit.load_checkpoint(n, run / "checkpoints/best.ckpt")
    evaluate.calibrated(n, finished.job.cfg, whole(finished))
    return run, n.eval()


def test_the_bundle_answers_as_torch_does(finished: Finished, made: tuple[Path, Net]) -> None:
    v = whole(finished)
    p, rows = v.prepared, v.val  # not the rows that export itself compared
    evaluate.calibrated(made[1], finished.job.cfg, v)
    want = evaluate.answers(made[1], v, rows)
    got = infer.run(infer.load(made[0] / "bundle"), np.ascontiguousarray(p.x[rows]))
    assert np.allclose(got, want, rtol=infer.RTOL, atol=infer.ATOL)
    assert want.max() > 0.3  # it says something


@pytest.mark.parametrize("n", [1, 2, 7, 100])
def test_the_batch_is_free(made: tuple[Path, Net], n: int) -> None:
    x = np.random.default_rng(0).integers(0, 256, (n, 8, 8, 1), dtype=np.uint8)
    y = infer.run(infer.load(made[0] / "bundle"), x)
    assert y.shape == (n, 10)
    assert np.allclose(y.sum(1), 1, atol=1e-5)


def test_the_manifest_says_what_it_is(finished: Finished) -> None:
    m = bundle.read(finished.run / "bundle")
    p = prepared(finished.job)
    assert (m.model, m.names, m.kind) == ("digits@first", tuple("0123456789"), "classes")
    assert m.metrics == finished.content["metrics"]
    assert (m.data_hash, m.backbone) == (p.meta.data_hash, "test_resnet")
    assert m.spec == ImageSpec(**p.meta.preprocess)
    assert (m.synthetic, m.fast, m.warning) == (False, False, None)
    assert vars(m.serve).keys() == vars(finished.job.cfg.serve).keys()
    assert sorted(f.name for f in (finished.run / "bundle").iterdir()) == ["bundle.json", "model.onnx"]


def test_the_graph_takes_bytes_and_holds_everything(finished: Finished) -> None:
    model = onnx.load(str(finished.run / "bundle/model.onnx"))
    (x,), (y,) = model.graph.input, model.graph.output
    assert x.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert y.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert [d.dim_value for d in x.type.tensor_type.shape.dim][1:] == [8, 8, 1]
    assert x.type.tensor_type.shape.dim[0].dim_param
    bundle.check_graph(finished.run / "bundle/model.onnx")
    # Written for its engine: the first convolution reads bytes as they lie, and nothing is left over.
    ops = [n.op_type for n in model.graph.node]
    assert ops[:4] == ["Reshape", "Cast", "Sub", "Conv"]
    assert "Transpose" not in ops
    assert "Gather" not in ops
    assert {i.name for i in model.graph.initializer} <= {name for n in model.graph.node for name in n.input}


def _export(finished: Finished, run: Path, n: Net, prob: Any) -> Path:
    v = whole(finished)
    tested = evaluate.Assessment(v.test, prob, {"metrics": {"accuracy": 0.5}})
    return export.export(n, finished.job.task, finished.job.cfg, v, run, tested)


@pytest.fixture
def same_graph(made: tuple[Path, Net], monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph that is there, in place of exporting the same one again: seconds."""
    kept = made[0].parent / "kept.onnx"
    shutil.copy(made[0] / "bundle/model.onnx", kept)
    monkeypatch.setattr(export, "_graph", lambda _, __, path, **___: shutil.copy(kept, path))


@pytest.mark.usefixtures("same_graph")
def test_a_bundle_that_differs_from_torch_is_not_left_behind(finished: Finished, made: tuple[Path, Net]) -> None:
    run, n = made
    v = whole(finished)
    prob = evaluate.answers(n, v, v.test)
    prob[-1, 3] += 0.01  # the last row of the last batch
    shutil.rmtree(run / "bundle")
    with pytest.raises(CheckFailed, match="does not give torch's answers"):
        _export(finished, run, n, prob)
    assert not (run / "bundle").exists()
    assert not list(run.glob(".bundle*"))


@pytest.mark.usefixtures("same_graph")
def test_a_failed_export_keeps_the_bundle_that_was_there(finished: Finished, made: tuple[Path, Net]) -> None:
    run, n = made
    before = {f.name: f.read_bytes() for f in (run / "bundle").iterdir()}
    v = whole(finished)
    with pytest.raises(BundleError):  # its first row is the example, on which it is proven before all others
        _export(finished, run, n, evaluate.answers(n, v, v.test)[:, ::-1])
    assert {f.name: f.read_bytes() for f in (run / "bundle").iterdir()} == before


@pytest.mark.usefixtures("same_graph")
def test_no_tolerance_is_failed_by_rounding(
    finished: Finished, made: tuple[Path, Net], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The comparison is a real one: floating-point sums in another order differ in their last bits.
    v = whole(finished)
    prob = evaluate.answers(made[1], v, v.test)
    prob[1:] += np.float32(1e-6)
    _export(finished, made[0], made[1], prob)
    monkeypatch.setattr(infer, "_prove", lambda *_: None)  # the example's own check has a tolerance too
    monkeypatch.setattr(infer, "RTOL", 0.0)
    monkeypatch.setattr(infer, "ATOL", 0.0)
    with pytest.raises(CheckFailed):
        _export(finished, made[0], made[1], prob)


class Pooled(torch.nn.Module):
    """As timm's mobile families end: a pool between convolutions, channels-last as they are trained."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 2, 1)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x.permute(0, 3, 1, 2).float().contiguous())
        y: torch.Tensor = self.last(torch.nn.functional.adaptive_avg_pool2d(x, 1)).flatten(1)
        return y


def test_how_weights_lie_leaves_no_nodes_and_stays(tmp_path: Path) -> None:
    model = Pooled().eval()
    export._graph(model, np.zeros((2, 8, 8, 3), np.uint8), tmp_path / "model.onnx", free_length=False)
    ops = [n.op_type for n in onnx.load(str(tmp_path / "model.onnx")).graph.node]
    assert ops == ["Reshape", "Cast", "Conv", "GlobalAveragePool", "Conv", "Reshape"]
    assert model.first.weight.is_contiguous(memory_format=torch.channels_last)
