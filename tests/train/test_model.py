"""`proj.train.model`: the loss, the optimiser's groups, the schedule, one step."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from proj.config import Augment, Config, Model
from proj.preprocess.spec import ImageSpec
from proj.train import augment
from proj.train.images import ImageEncoder
from proj.train.model import LitModel
from proj.train.net import Head, Net


def lit(total: int = 100, weights: torch.Tensor | None = None, **values: Any) -> LitModel:
    torch.manual_seed(0)
    m = Model(**{"backbone": "test_resnet", **values})
    encoder = ImageEncoder(m, ImageSpec(height_px=8, width_px=8, channels=1), [0.3], [0.3])
    made = Net(encoder, Head(encoder.width, 10, m), frozen=m.freeze, target_mean=[], target_std=[])
    return LitModel(made, Config(model=m), "image", outputs=10, total_steps=total, weights=weights)


def rates(model: LitModel, steps: int) -> list[float]:
    made = model.configure_optimizers()
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    assert made["lr_scheduler"]["interval"] == "step"
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_the_rate_warms_up_then_falls_as_a_cosine_to_nought() -> None:
    lr = rates(lit(100, lr=0.1, warmup_share=0.1), 101)
    assert lr[:11] == pytest.approx([0.01 * i for i in range(1, 11)] + [0.1])
    assert lr[55] == pytest.approx(0.05)
    assert lr[32] == pytest.approx(0.05 * (1 + math.cos(math.pi * 22 / 90)))
    assert lr[100] == pytest.approx(0, abs=1e-9)
    assert all(a >= b for a, b in itertools.pairwise(lr[10:]))


def test_a_run_of_one_step_learns_at_the_whole_rate() -> None:
    assert rates(lit(1, lr=0.1), 1) == [0.1]


def test_biases_and_scales_are_not_decayed() -> None:
    model = lit(weight_decay=0.3)
    groups = model.configure_optimizers()["optimizer"].param_groups
    assert {g["weight_decay"]: {p.dim() > 1 for p in g["params"]} for g in groups} == {0.3: {True}, 0.0: {False}}
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))


def test_only_the_head_of_a_frozen_network_learns() -> None:
    model = lit(freeze=True)
    learned = [p for g in model.configure_optimizers()["optimizer"].param_groups for p in g["params"]]
    assert {id(p) for p in learned} == {id(p) for p in model.net.head.parameters()}


def test_label_smoothing_and_class_weights_are_in_the_loss() -> None:
    logits, y = torch.randn(20, 10), torch.arange(20) % 10
    weights = torch.linspace(0.5, 2, 10)
    log = F.log_softmax(logits, 1)
    assert torch.allclose(lit().loss(logits, y), -log[torch.arange(20), y].mean())
    weighted = -(log[torch.arange(20), y] * weights[y]).sum() / weights[y].sum()
    assert torch.allclose(lit(weights=weights).loss(logits, y), weighted)
    soft = F.one_hot(y, 10) * 0.9 + 0.01
    assert torch.allclose(lit(label_smoothing=0.1).loss(logits, y), -(soft * log).sum(1).mean())


def test_pictures_and_their_features_give_the_same_logits() -> None:
    model = lit(freeze=True).eval()
    torch.nn.init.normal_(model.net.head.linear.weight)
    x = torch.randint(0, 256, (40, 8, 8, 1), dtype=torch.uint8)
    f = model.net.encode_frozen(model.net.front(x))
    from_pictures = model(x)
    model.features = True
    assert torch.equal(from_pictures, model(f))


@pytest.mark.parametrize("features", [False, True])
def test_a_step_with_mixup_has_a_finite_loss_and_gradient(features: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = lit()
    model.cfg.augment = Augment(mixup=0.4, flip=True, rotate_deg=10)
    monkeypatch.setattr(LitModel, "global_step", 7)
    model.features = features
    width = model.net.head.mean.numel()
    x = torch.randn(8, width) if features else torch.randint(0, 256, (8, 8, 8, 1), dtype=torch.uint8)
    loss = model.training_step((x, torch.arange(8)), 0)
    loss.backward()
    assert loss.shape == ()
    assert loss.item() == pytest.approx(math.log(10), abs=1e-4)  # the head starts at nought
    grad = model.net.head.linear.weight.grad
    assert grad is not None
    assert bool(grad.isfinite().all())
    assert bool(grad.any())


def test_a_step_augments_by_seed_and_step(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    real = augment.pictures

    def watched(x: torch.Tensor, a: Augment, g: torch.Generator) -> torch.Tensor:
        seen.append(real(x, a, g))
        return seen[-1]

    monkeypatch.setattr(augment, "pictures", watched)
    model = lit()
    model.cfg.augment = Augment(shift=0.2)
    x = torch.randint(0, 256, (8, 8, 8, 1), dtype=torch.uint8)
    for seed, step in ((0, 1), (0, 1), (0, 2), (1, 1)):
        model.cfg.seed = seed
        monkeypatch.setattr(LitModel, "global_step", step)
        model.training_step((x, torch.arange(8)), 0)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[3])
