"""`proj.train.mix`: what is mixed, and that targets follow in the very same shares."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from proj.config import Augment
from proj.errors import ConfigError
from proj.train import augment, mix

B = 16


def numbered(*shape: int) -> torch.Tensor:
    """Rows whose values are their number."""
    return torch.arange(float(B)).view(-1, *[1] * len(shape)).expand(B, *shape).clone()


@pytest.mark.parametrize("shape", [(3, 8, 8), (20,), (5, 4)])
def test_mixup_mixes_inputs_and_targets_by_the_same_share(shape: tuple[int, ...]) -> None:
    x, target = mix.mix(numbered(*shape), torch.eye(B), 0.4, augment.generator(0, 0))
    assert x.shape == (B, *shape)
    assert target.shape == (B, B)
    assert torch.allclose(target.sum(1), torch.ones(B))
    assert bool((target.diagonal() >= 0.5 - 1e-6).all())
    assert torch.allclose(x.flatten(1), (target @ torch.arange(float(B)))[:, None], atol=1e-4)
    assert int((target.diagonal() < 0.999).sum()) > 0


@given(
    alpha=st.floats(0.01, 10),
    channels=st.sampled_from([(1,), (3,), (2, 3)]),
    h=st.integers(1, 12),
    w=st.integers(1, 12),
    step=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_the_share_of_cutmix_is_the_boxes_area(
    alpha: float, channels: tuple[int, ...], h: int, w: int, step: int
) -> None:
    source = numbered(*channels, h, w)
    x, target = mix.cutmix(source, torch.eye(B), alpha, augment.generator(0, step))
    assert torch.equal(source, numbered(*channels, h, w))
    assert x.shape == source.shape
    assert torch.allclose(target.sum(1), torch.ones(B), atol=1e-6)
    for i in range(B):
        taken = x[i] != i
        other = int(x[i].max() if x[i].max() != i else x[i].min())
        assert float(target[i, other] if other != i else 0) == pytest.approx(float(taken.float().mean()), abs=1e-6)
        plane = taken.reshape(-1, h, w)
        assert bool((plane == plane[0]).all()), "all channels and views get the same box"
        assert torch.equal(plane[0], plane[0].any(1)[:, None] & plane[0].any(0)[None, :]), "a box is a rectangle"


def test_cutmix_pastes_from_the_same_place() -> None:
    where = torch.rand(3, 10, 14)
    x, _ = mix.cutmix(numbered(3, 10, 14) + where * 0.5, torch.eye(B), 1.0, augment.generator(0, 0))
    assert torch.allclose(x % 1, (where * 0.5).expand_as(x), atol=1e-5)


def test_boxes_are_as_large_as_the_beta_distribution_says() -> None:
    x = torch.arange(4000.0).view(-1, 1, 1, 1).expand(-1, 1, 32, 32)
    y = torch.arange(4000.0)[:, None]
    mixed, _ = mix.cutmix(x, y, 1.0, augment.generator(0, 0))
    share = (mixed != x).float().mean((1, 2, 3))
    # Uniform from 0 to 1, less what is cut off at the edges.
    assert 0.3 < float(share.mean()) < 0.4
    assert float(share.min()) < 0.01
    assert float(share.max()) > 0.7


@pytest.mark.parametrize("change", [mix.mix, mix.cutmix])
def test_alpha_nought_changes_nothing_and_draws_nothing(change: Any) -> None:
    x, y, g = numbered(3, 4, 4), torch.eye(B), augment.generator(0, 0)
    before = g.get_state()
    found = change(x, y, 0.0, g)
    assert found[0] is x
    assert found[1] is y
    assert torch.equal(g.get_state(), before)


@pytest.mark.parametrize("change", [mix.mix, mix.cutmix])
def test_the_generator_alone_decides(change: Any) -> None:
    x, y = torch.rand(B, 3, 8, 8), torch.eye(B)
    first = change(x, y, 0.7, augment.generator(1, 2))
    torch.rand(100)
    again = change(x, y, 0.7, augment.generator(1, 2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], change(x, y, 0.7, augment.generator(1, 3))[1])


def test_one_of_both_is_drawn_for_each_batch() -> None:
    x, y = torch.rand(B, 3, 8, 8), torch.eye(B)
    a = Augment(mixup=0.4, cutmix=1.0)
    found = []
    for step in range(60):
        mixed, target = mix.mixed(x, y, a, augment.generator(0, step))
        coin = augment.generator(0, step)
        cut = float(torch.rand((), generator=coin)) < 0.5
        wanted = mix.cutmix(x, y, 1.0, coin) if cut else mix.mix(x, y, 0.4, coin)
        assert torch.equal(mixed, wanted[0])
        assert torch.equal(target, wanted[1])
        found.append(cut)
    assert 15 < sum(found) < 45


@pytest.mark.parametrize(
    ("a", "alone"),
    [(Augment(mixup=2), mix.mix), (Augment(cutmix=2), mix.cutmix)],
    ids=["mixup", "cutmix"],
)
def test_one_that_is_asked_for_alone_draws_no_coin(a: Augment, alone: Any) -> None:
    x, y = torch.rand(B, 3, 8, 8), torch.eye(B)
    wanted = alone(x, y, 2, augment.generator(0, 0))
    assert torch.equal(mix.mixed(x, y, a, augment.generator(0, 0))[0], wanted[0])
    assert mix.wanted(a)
    assert not mix.wanted(Augment(flip=True))


@pytest.mark.parametrize(
    ("modality", "values", "features", "named"),
    [
        ("text", False, False, "kind text"),
        ("series", False, False, "kind series"),
        ("image", True, False, "values"),
        ("image", False, True, "model.cache=false"),
    ],
)
def test_cutmix_is_refused_where_it_means_nothing(modality: Any, values: bool, features: bool, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        mix.check(Augment(cutmix=1), modality, values=values, features=features)
    mix.check(Augment(mixup=1), modality, values=values, features=features)


def test_cutmix_of_pictures_and_classes_is_not_refused() -> None:
    mix.check(Augment(cutmix=1, mixup=0.2), "image", values=False, features=False)
