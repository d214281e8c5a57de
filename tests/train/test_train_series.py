"""Encoders of series: what they standardise, what they see, and that they can be exported."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn

from proj import bundle
from proj.config import Model
from proj.errors import ConfigError
from proj.preprocess.spec import SeriesSpec
from proj.train import series

NETWORKS = ("convolutions", "lstm")
MEAN, STD = [5.0, -2.0, 0.0], [10.0, 0.5, 0.0]  # the last channel never moves


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in training: for such small batches a second thread waits more than it works."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(name: str = "convolutions", *, normalise: str = "training", steps: int = 10, **m: int) -> series.Encoder:
    spec = SeriesSpec(steps=steps, channels=("a", "b", "c"), normalise=normalise)  # type: ignore[arg-type]
    torch.manual_seed(0)
    return series.build(Model(series=name, **{"width": 8, **m}), spec, MEAN, STD)  # type: ignore[arg-type]


def windows(n: int, steps: int = 10) -> torch.Tensor:
    x = torch.randn(n, steps, 3, generator=torch.Generator().manual_seed(1))
    return x * torch.tensor([10.0, 0.5, 0.0]) + torch.tensor(MEAN)


@pytest.mark.parametrize("normalise", ["training", "window"])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_features_have_the_width_that_is_said(name: str, layers: int, normalise: str) -> None:
    net = build(name, layers=layers, normalise=normalise)
    x = windows(4)
    z = net.front(x)
    assert z.shape == x.shape
    f = net(z)
    assert f.shape == (4, net.width)
    f.sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.parameters())


def test_front_standardises_by_the_training_split() -> None:
    x = torch.tensor([[[15.0, -2.0, 7.0], [5.0, -1.5, 7.0]]])
    assert build(steps=2).front(x).tolist() == [[[1.0, 0.0, 7.0], [0.0, 1.0, 7.0]]]


def test_front_standardises_a_window_by_itself() -> None:
    net = build(normalise="window")
    z = net.front(windows(5) * 3 + 20)
    assert torch.allclose(z.mean(1), torch.zeros(5, 3), atol=1e-4)
    assert torch.allclose(z.square().mean(1)[:, :2], torch.ones(5, 2), atol=1e-3)
    assert torch.allclose(z, net.front(windows(5) * 3 + 700), atol=1e-2)  # wherever its zero is


def test_a_window_that_hardly_moves_is_not_blown_up() -> None:
    x = torch.tensor([5.0, -2.0, 0.0]).repeat(1, 10, 1)
    x[0, ::2, 0] += 1e-3
    assert float(build(normalise="window").front(x).abs().max()) < 0.02


@pytest.mark.parametrize("normalise", ["training", "window"])
@pytest.mark.parametrize("name", NETWORKS)
def test_any_finite_number_gives_finite_features(name: str, normalise: str) -> None:
    net = build(name, normalise=normalise).eval()
    most = float(np.finfo(np.float32).max)
    x = torch.stack([torch.zeros(10, 3), torch.full((10, 3), most), torch.full((10, 3), -most), windows(1)[0]])
    x[2, ::2] = most
    assert bool(net(net.front(x)).isfinite().all())


def test_summaries_are_those_of_the_window() -> None:
    x = torch.tensor([[0.0, 3.0, -3.0, 2.0]])[..., None]
    got = torch.expm1(series.summaries(x)) * series.FINEST
    assert got[0].tolist() == pytest.approx([2.0, 3.0, 2.29129, (3 + 6 + 5) / 4], rel=1e-4)


def test_the_logarithmic_scale_keeps_signs_and_order() -> None:
    x = torch.tensor([-1e4, -1.0, -1e-3, 0.0, 1e-3, 1.0, 1e4])
    y = series.compressed(x)
    assert bool((y.diff() > 0).all())
    assert torch.equal(y, -y.flip(0))
    assert float(y[-1]) < 14


def test_each_row_has_its_own_features() -> None:
    for name in NETWORKS:
        net, x = build(name).eval(), windows(6)
        whole = net(net.front(x))
        for i in range(6):
            assert torch.allclose(net(net.front(x[i : i + 1])), whole[i : i + 1], atol=1e-5)


def test_in_training_summaries_do_without_the_network_in_some_rows() -> None:
    net = build()
    f = net(net.front(windows(200)))[:, : net.features]
    left_out = (f == 0).all(1)
    assert 60 < int(left_out.sum()) < 140
    net.eval()
    assert not (net(net.front(windows(200)))[:, : net.features] == 0).all(1).any()


@pytest.mark.parametrize("name", NETWORKS)
def test_an_encoder_learns_what_only_the_order_of_steps_tells(name: str) -> None:
    """Rising or falling: strength, peak, spread and change are the same, so that the network itself must see it."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(64) % 2
    x = torch.linspace(-1, 1, 10)[None, :, None] * (y * 2 - 1)[:, None, None] * 10 + torch.randn(64, 10, 3, generator=g)
    spec = SeriesSpec(steps=10, channels=("a", "b", "c"))
    torch.manual_seed(0)
    net = series.build(Model(series=name, width=8), spec, [0.0] * 3, [6.0] * 3)
    head = nn.Linear(net.width, 2)
    learned = torch.optim.AdamW([*net.parameters(), *head.parameters()], lr=2e-2)
    for _ in range(40):
        loss = nn.functional.cross_entropy(head(net(net.front(x[:48]))), y[:48])
        learned.zero_grad()
        loss.backward()
        learned.step()
    net.eval()
    assert float((head(net(net.front(x[48:]))).argmax(1) == y[48:]).float().mean()) > 0.9


def test_what_does_not_exist_is_a_config_error() -> None:
    spec = SeriesSpec(steps=10, channels=("a",))
    with pytest.raises(ConfigError, match=r"no network for series is called 'lstmm'.*did you mean model.series=lstm\?"):
        series.build(Model(backbone="lstmm"), spec, [0.0], [1.0])
    for m in (Model(pretrained=True), Model(weights="a.pt")):
        with pytest.raises(ConfigError, match="no pretrained weights for series"):
            series.build(m, spec, [0.0], [1.0])


class _Whole(nn.Module):
    def __init__(self, net: series.Encoder) -> None:
        super().__init__()
        self.net, self.head = net, nn.Linear(net.width, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.net(self.net.front(x))).softmax(-1)


@pytest.mark.parametrize(
    ("name", "normalise"), [("convolutions", "training"), pytest.param("lstm", "window", marks=pytest.mark.slow)]
)
def test_the_graph_agrees_with_torch_for_any_batch(name: str, normalise: str, tmp_path: Path) -> None:
    net = build(name, normalise=normalise)
    for seed in range(3):  # statistics of batches that are not those at the start
        net(net.front(windows(16) * (1 + seed)))
    whole = _Whole(net).eval()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter's own parts
        program = torch.onnx.export(
            whole, (windows(2),), dynamo=True, opset_version=20, input_names=["x"], output_names=["y"],
            dynamic_shapes={"x": {0: torch.export.Dim("batch")}}, verbose=False,
        )  # fmt: skip
    assert program is not None
    program.save(str(tmp_path / "model.onnx"), external_data=False)
    bundle.check_graph(tmp_path / "model.onnx")
    session = ort.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].type == "tensor(float)"
    for n in (1, 2, 7, 64):
        x = windows(n)
        x[0] *= 1e3
        with torch.no_grad():
            want = whole(x).numpy()
        got = session.run(["y"], {"x": x.numpy()})[0]
        assert got.shape == (n, 4)
        assert np.allclose(got, want, rtol=1e-3, atol=1e-5)
