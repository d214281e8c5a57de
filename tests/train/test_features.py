"""`proj.train.features`: what a frozen backbone says, computed once, and equal to what it says every time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_projects import Finished, digits, fitted, net, same, view, weights_file

from proj.data import cache
from proj.train import evaluate, features, setup
from proj.train.net import Net
from proj.verbs import train
from proj.verbs.job import Job

CPU = torch.device("cpu")
PLAIN = (
    "augment.rotate_deg=0",
    "augment.shift=0",
    "augment.scale=0",
    "augment.mixup=0",
    "trainer.max_epochs=2",
    "model.freeze=true",
)


@pytest.fixture
def frozen(finished: Finished, tmp_path: Path) -> Job:
    """Frozen test_resnet with weights from a file, without augmentation."""
    return digits(finished.project.root, *PLAIN, f"model.weights='{weights_file(tmp_path)}'", "model.drop_rate=0.3")


def _again(job: Job, *overrides: str) -> Job:
    return digits(job.project.root, *(o for o in job.composed.overrides if not o.startswith("task=")), *overrides)


def test_cached_and_uncached_training_end_in_the_same_bits(frozen: Job, tmp_path: Path) -> None:
    cached = fitted(frozen, tmp_path / "a")
    uncached = fitted(_again(frozen, "model.cache=false"), tmp_path / "b")
    assert cached.head.linear.weight.any()
    assert same(cached, uncached)
    assert not (tmp_path / "b/features").exists()
    scores = [(tmp_path / n / "metrics.csv").read_text().splitlines() for n in "ab"]
    strip = [[line.rsplit(",", 1)[0] for line in s] for s in scores]  # the last column is seconds
    assert strip[0] == strip[1]


def test_a_filled_cache_changes_nothing(frozen: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The pass over the data once left the network in evaluation mode: the head then dropped nothing out.
    first = fitted(frozen, tmp_path / "a", cache=tmp_path / "features")
    monkeypatch.setattr(features, "_fill", lambda *_: pytest.fail("computed again"))
    assert same(first, fitted(frozen, tmp_path / "b", cache=tmp_path / "features"))


def test_the_backbone_is_as_it_was_and_the_head_is_not(frozen: Job, tmp_path: Path) -> None:
    before = net(frozen, view(frozen))
    for name, job in (("cached", frozen), ("not", _again(frozen, "model.cache=false"))):
        after = fitted(job, tmp_path / name)
        assert same(before.encoder.backbone, after.encoder.backbone)  # batch statistics too
        assert not torch.equal(before.head.linear.weight, after.head.linear.weight)
        assert not torch.equal(before.head.mean, after.head.mean)


def test_the_head_standardises_by_the_training_rows_only(frozen: Job, tmp_path: Path) -> None:
    v = view(frozen)
    f = features.compute(net(frozen, v), frozen.cfg, v, CPU, passes=1)[0]
    got = fitted(frozen, tmp_path / "a").head
    assert np.allclose(got.mean.numpy(), f[v.train].mean(0), atol=1e-6)
    assert not np.allclose(got.mean.numpy(), f.mean(0), atol=1e-6)


def test_features_are_of_each_row_in_order(frozen: Job) -> None:
    v = view(frozen)
    n = net(frozen, v)
    f = features.compute(n, frozen.cfg, v, CPU, passes=1)
    assert f.dtype == np.float32
    assert f.shape == (1, len(v.prepared.x), n.head.mean.numel())
    n.eval()
    x = torch.from_numpy(np.array(v.prepared.x[100:103]))
    assert np.allclose(f[0, 100:103], n.encode(n.front(x)).detach().numpy(), atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_the_network_keeps_its_mode(frozen: Job, training: bool) -> None:
    v = view(frozen)
    n = net(frozen, v).train(training)
    features.compute(n, frozen.cfg, v, CPU, passes=1)
    assert n.head.training is training


def test_more_views_are_augmented_but_not_the_first(frozen: Job, tmp_path: Path) -> None:
    v = view(frozen)
    job = _again(frozen, "model.feature_views=3", "augment.shift=0.2")
    f = features.cached(net(job, v), job.cfg, v, tmp_path, CPU)
    one = features.cached(net(frozen, v), frozen.cfg, v, tmp_path, CPU)
    assert f.shape[0] == 3
    assert np.array_equal(f[0], one[0])
    assert not np.allclose(f[1], f[0], atol=1e-3)
    assert not np.allclose(f[1], f[2], atol=1e-3)
    assert fitted(job, tmp_path / "run").head.linear.weight.any()


@pytest.mark.parametrize(
    ("overrides", "other"),
    [
        (("model.lr=0.1",), False),
        (("model.drop_rate=0.1",), False),
        (("augment.shift=0.2",), False),  # one view is never augmented
        (("seed=5",), False),
        (("model.pool=max",), True),
        (("model.input_size_px=16",), True),
        (("model.feature_views=2",), True),
        (("model.feature_views=2", "augment.shift=0.2"), True),
        (("data.split_seed=3",), True),
        (("model.weights=OTHER",), True),
        (("model.feature_precision=bf16",), True),
        (("data.cache_gb=1",), False),
    ],
)
def test_the_key_is_of_all_that_decides_the_features(
    frozen: Job, tmp_path: Path, overrides: tuple[str, ...], other: bool
) -> None:
    words = list(overrides)
    if words == ["model.weights=OTHER"]:
        changed = weights_file(tmp_path, name="other.pt")
        state: dict[str, Any] = torch.load(changed, weights_only=True)
        state["bn1.running_mean"][0] += 1  # a buffer, not a weight
        torch.save(state, changed)
        words = [f"model.weights='{changed}'"]
    keys = []
    for job in (frozen, _again(frozen, *words)):
        v = view(job)
        keys.append(features.key(net(job, v), job.cfg, v, CPU))
    assert (keys[0] != keys[1]) is other


@pytest.mark.parametrize("views", [1, 2])
def test_the_seed_of_the_split_decides_augmented_features_whatever_the_split(frozen: Job, views: int) -> None:
    job = _again(frozen, f"model.feature_views={views}")
    v, n = view(job), net(job, view(job))
    seeds = (replace(job.cfg, data=replace(job.cfg.data, split_seed=seed)) for seed in (0, 3))
    assert len({features.key(n, cfg, v, CPU) for cfg in seeds}) == views
    mixed = replace(job.cfg, augment=replace(job.cfg.augment, mixup=0.3, cutmix=1.0))
    assert features.key(n, mixed, v, CPU) == features.key(n, job.cfg, v, CPU)


def test_another_device_has_features_of_its_own(frozen: Job) -> None:
    v, n = view(frozen), net(frozen, view(frozen))
    assert features.key(n, frozen.cfg, v, CPU) != features.key(n, frozen.cfg, v, torch.device("cuda"))


def test_an_extraction_that_stops_leaves_no_part(frozen: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> torch.Tensor:
        raise MemoryError

    v, n = view(frozen), net(frozen, view(frozen))
    monkeypatch.setattr(Net, "encode_frozen", full)
    with pytest.raises(MemoryError):
        features.cached(n, frozen.cfg, v, tmp_path / "cache", CPU)
    assert [p.suffix for p in (tmp_path / "cache").rglob("*") if p.is_file() and p.name != ".lock"] == [".lock"]


def test_what_is_kept_says_which_settings_decided_it(frozen: Job, tmp_path: Path) -> None:
    job = _again(frozen, "model.feature_views=2", "augment.shift=0.2", "model.lr=0.1")
    v = view(job)
    f = features.cached(net(job, v), job.cfg, v, tmp_path, CPU)
    (entry,) = cache.entries(tmp_path)
    assert isinstance(f, np.memmap)
    assert entry.about.settings == {
        "model.backbone": "test_resnet",
        "model.weights": job.cfg.model.weights,
        "model.feature_views": 2,
        "augment.shift": 0.2,
    }
    assert (entry.task, entry.about.rows, entry.about.prepared) == ("digits", 240, v.prepared.meta.key)


def test_the_bound_is_the_configs(frozen: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    v = view(frozen)
    for words in ((), ("model.pool=max", "data.cache_gb=1e-6")):
        monkeypatch.setattr(cache, "_held", set())  # as if another process had made the first
        job = _again(frozen, *words)
        features.cached(net(job, v), job.cfg, v, tmp_path, CPU)
    (entry,) = cache.entries(tmp_path)
    assert entry.about.settings["model.pool"] == "max"


def test_bf16_features_are_near_and_train_as_well(frozen: Job, tmp_path: Path) -> None:
    v, half = view(frozen), _again(frozen, "model.feature_precision=bf16")
    f = features.cached(net(frozen, v), frozen.cfg, v, tmp_path, CPU)
    g = features.cached(net(half, v), half.cfg, v, tmp_path, CPU)
    assert g.dtype == np.float32
    assert 0 < np.linalg.norm(f - g) / np.linalg.norm(f) < 0.02
    said = [evaluate.answers(fitted(job, tmp_path / n), v, v.test) for n, job in (("a", frozen), ("b", half))]
    assert np.abs(said[0] - said[1]).max() < 0.02
    assert not np.array_equal(said[0], said[1])


def test_a_run_on_bf16_features_is_scored_and_exported_as_its_network_answers(tmp_path: Path) -> None:
    # Its scores were once those of the features: no export gave the same answers, and every such training ended there.
    words = ("model.freeze=true", "model.feature_precision=bf16", f"model.weights='{weights_file(tmp_path)}'")
    run, _ = train.train(digits(tmp_path, *words, "trainer.max_epochs=1"), fast=True, name="half")
    assert (run / "bundle/model.onnx").is_file()


def test_features_are_computed_in_all_bits_of_float32(frozen: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    encode = Net.encode_frozen

    def looked(self: Net, x: torch.Tensor) -> torch.Tensor:
        seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
        return encode(self, x)

    monkeypatch.setattr(Net, "encode_frozen", looked)
    torch.set_float32_matmul_precision("high")  # as a training on a GPU has it
    try:
        v = view(frozen)
        features.compute(net(frozen, v), frozen.cfg, v, CPU, passes=1)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert set(seen) == {("highest", False)}
    assert torch.backends.cudnn.allow_tf32


def test_without_the_cache_features_are_exact(frozen: Job) -> None:
    v, half = view(frozen), _again(frozen, "model.feature_precision=bf16", "model.cache=false")
    f, g = (features.compute(net(job, v), job.cfg, v, CPU, passes=1) for job in (frozen, half))
    assert np.array_equal(f, g)


def test_an_unfrozen_network_asks_for_no_features(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "_fill", lambda *_: pytest.fail("computed"))
    job = digits(finished.project.root, "trainer.max_epochs=1")
    got: Net = fitted(job, tmp_path / "a")
    start = net(job, view(job))
    assert not same(got.encoder.backbone, start.encoder.backbone)
    # Batch norm learned: the backbone was in training mode.
    assert not torch.equal(got.encoder.backbone.bn1.running_mean, start.encoder.backbone.bn1.running_mean)


def test_kept_features_give_the_probabilities_that_the_pictures_give(frozen: Job, tmp_path: Path) -> None:
    v, rows = view(frozen), np.array([5, 170, 44])
    trained = fitted(frozen, tmp_path / "a", cache=tmp_path / "features")
    kept = setup.frozen_features(frozen.cfg, trained, v, tmp_path / "features")
    assert kept is not None
    from_features = evaluate.answers(trained, v, rows, kept)
    assert np.allclose(from_features, evaluate.answers(trained, v, rows), atol=1e-6)
    assert len({tuple(p) for p in from_features.round(6)}) == 3
    for word in ("model.cache=false", "model.feature_precision=bf16"):
        other = _again(frozen, word)
        assert setup.frozen_features(other.cfg, trained, v, tmp_path / "features") is None
