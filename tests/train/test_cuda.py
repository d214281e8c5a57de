"""What only a GPU shows. Skipped where there is none: `.ci/run` has none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from made_projects import digits, net, view, weights_file

from proj.train import features, measure, settle, speed, trial
from proj.verbs import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="NO GPU: torch sees no CUDA device")


@pytest.fixture
def pretrained(tmp_path: Path) -> str:
    return f"model.weights='{weights_file(tmp_path)}'"


@pytest.mark.parametrize("words", [(), ("model.freeze=true",), ("model.freeze=true", "model.feature_precision=bf16")])
def test_a_run_is_trained_there_and_its_export_gives_the_same_answers(
    tmp_path: Path, pretrained: str, words: tuple[str, ...]
) -> None:
    job = digits(tmp_path, "trainer.max_epochs=3", pretrained, *words)
    run, content = train.train(job, fast=False, name="first")
    assert (job.cfg.trainer.device, settle.kind(job.cfg)) == ("auto", "cuda")
    assert (run / "bundle/model.onnx").is_file()
    assert content["metrics"]["accuracy"] > 0.2  # of ten classes


def test_features_are_those_of_the_cpu(tmp_path: Path, pretrained: str) -> None:
    job = digits(tmp_path, "model.freeze=true", "model.input_size_px=64", pretrained)
    v = view(job)
    there, here = (features.compute(net(job, v), job.cfg, v, torch.device(kind), passes=1) for kind in ("cuda", "cpu"))
    assert 0 < np.linalg.norm(there - here) / np.linalg.norm(here) < 1e-5  # TF32: some 1e-4


def test_its_time_is_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "ROOF_S", 0.05)
    job = digits(tmp_path, "model.input_size_px=64", "trainer.batch_size=64")
    p = measure.measure(job.cfg, view(job), tmp_path / "features", steps=8)
    assert 0 < p.seen.device_s < 0.8 * p.step_s  # a tiny network: the device waits for the loop
    assert sum(o.share for o in p.seen.operations) == pytest.approx(1, abs=0.01)
    assert {"Python", "kernels of no operation"}.isdisjoint(o.name for o in p.seen.operations if o.share > 0.05)
    assert any("convolution" in o.name and o.shapes for o in p.seen.operations)


def test_compiling_is_timed(tmp_path: Path) -> None:
    job = digits(tmp_path, "trainer.max_epochs=2")
    s = trial.begin(job.cfg, view(job), tmp_path / "features")
    found = speed.fastest(job.cfg, s, "compile", tmp_path / "tune")
    assert found["chosen"]["trainer.compile"] in {"always", "never"}
