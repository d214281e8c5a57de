"""Attention pooling over views."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

from proj.train.pool import AttentionPool

F = 6


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A second thread waits more than it works on operations as small as these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def learned(seed: int = 0) -> AttentionPool:
    """A pool whose weights are far from equal."""
    torch.manual_seed(seed)
    pool = AttentionPool(F)
    torch.nn.init.normal_(pool.score.weight, std=1.0)
    return pool.eval()


def features(b: int = 4, v: int = 3, seed: int = 1) -> torch.Tensor:
    return torch.randn(b, v, F, generator=torch.Generator().manual_seed(seed))


def test_it_starts_as_the_mean() -> None:
    x = features()
    assert torch.allclose(AttentionPool(F)(x), x.mean(1), atol=1e-6)


def test_the_weights_of_a_thing_are_positive_and_sum_to_one_and_differ() -> None:
    w = learned().weights(features(50))
    assert (w > 0).all()
    assert torch.allclose(w.sum(1), torch.ones(50), atol=1e-6)
    assert w.max() > 0.6
    assert w.min() < 0.1


def test_the_order_of_the_views_does_not_matter() -> None:
    x, pool = features(v=4), learned()
    for order in ([3, 2, 1, 0], [1, 0, 3, 2]):
        assert torch.allclose(pool(x), pool(x[:, order]), atol=1e-6)


def test_views_that_are_all_repeated_change_nothing() -> None:
    x, pool = features(v=2), learned()
    assert torch.allclose(pool(x), pool(torch.cat([x, x], 1)), atol=1e-6)
    assert torch.allclose(pool(x[:, :1]), x[:, 0], atol=1e-6)


def test_one_view_that_is_taken_again_moves_the_result_only_towards_that_view() -> None:
    x, pool = features(20, v=2), learned()
    once, twice = pool(x), pool(x[:, [0, 1, 0]])
    gap = (once - x[:, 0]).norm(dim=1)
    assert ((twice - x[:, 0]).norm(dim=1) <= gap + 1e-6).all()
    assert ((twice - once).norm(dim=1) <= 0.5 * gap + 1e-6).all()  # never more than half the way


def test_a_rows_result_does_not_depend_on_its_neighbours() -> None:
    x, pool = features(5), learned()
    assert torch.allclose(pool(x)[2:3], pool(x[2:3]), atol=1e-6)


def test_it_learns_which_view_tells() -> None:
    """Of two views in random order one says the answer, the other noise; its first feature marks which."""
    g = torch.Generator().manual_seed(0)
    y = torch.randn(400, generator=g)
    x = 0.1 * torch.randn(400, 2, F, generator=g)
    told = torch.rand(400, generator=g).lt(0.5).long()
    rows = torch.arange(400)
    x[rows, told, 0] += 2
    x[rows, told, 1] = y
    x[rows, 1 - told, 1] = torch.randn(400, generator=g)
    torch.manual_seed(1)
    pool = AttentionPool(F)
    before = copy.deepcopy(pool)
    net = torch.nn.Sequential(pool, torch.nn.Linear(F, 1))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        (net(x).squeeze(-1) - y).square().mean().backward()
        optimizer.step()
    assert pool.weights(x)[rows, told].mean().item() > 0.95
    assert before.weights(x)[rows, told].mean().item() == pytest.approx(0.5, abs=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_exported_graph_gives_the_same_for_any_batch(tmp_path: Path) -> None:
    pool, path = learned(), tmp_path / "pool.onnx"
    torch.onnx.export(
        pool, (features(2),), path, input_names=["x"], output_names=["y"], opset_version=20, dynamo=True,
        external_data=False, verbose=False, dynamic_shapes=({0: torch.export.Dim("batch")},),
    )  # fmt: skip
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for b in (1, 3, 7):
        x = features(b, seed=b)
        (y,) = session.run(["y"], {"x": x.numpy()})
        assert np.allclose(y, pool(x).detach().numpy(), rtol=1e-4, atol=1e-6)
