"""A training that was cut off goes on and ends in the very weights of one that was not. Real training, 240 rows."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from made_projects import Finished, digits, fitted, same, view

from proj.train import checkpoints, fit
from proj.verbs.job import Job

ROOT = Path(__file__).resolve().parents[2]
EACH_STEP = "trainer.checkpoint_every_steps=1"
RICH = ("augment.mixup=0.2", "augment.shift=0.1", "model.drop_rate=0.2", "model.drop_path_rate=0.2")
QUICK = {
    "all that is random": (*RICH, "model.ema_decay=0.9", "trainer.workers=2"),
    "frozen": ("model.freeze=true", "model.drop_rate=0.2", "augment.mixup=0.2", "model.ema_decay=0.9"),
}
SLOW = {
    "plain": (),
    "early stopping": ("trainer.patience=1", "model.lr=0.5", "trainer.grad_clip=0"),
    "bf16": (*RICH, "trainer.precision=bf16", "model.input_size_px=32"),
    "frozen, not cached": ("model.freeze=true", "model.cache=false", "model.drop_rate=0.2"),
}
CASES = [
    *(pytest.param(words, id=name) for name, words in QUICK.items()),
    *(pytest.param(words, id=name, marks=pytest.mark.slow) for name, words in SLOW.items()),
]


def job(finished: Finished, *overrides: str) -> Job:
    return digits(finished.project.root, "trainer.max_epochs=3", "trainer.batch_size=64", *overrides)


def journal(out: Path) -> list[dict[str, Any]]:
    with (out / "metrics.csv").open(newline="") as f:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(f)]


@pytest.mark.parametrize("overrides", CASES)
def test_from_every_checkpoint_the_same_weights_are_reached(
    finished: Finished, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    made = job(finished, EACH_STEP, "trainer.keep_checkpoints=99", *overrides)
    steps = tmp_path / "steps"
    steps.mkdir()
    kept = checkpoints._keep
    try:
        checkpoints._keep = lambda folder, _: [shutil.copy(p, steps) for p in folder.glob("step-*.ckpt")]  # type: ignore[assignment,func-returns-value,misc]
        whole = fitted(made, tmp_path / "whole", cache=tmp_path / "features")
    finally:
        checkpoints._keep = kept
    found = sorted(steps.glob("*.ckpt"))
    assert len(found) >= 5
    for path in found:
        out = tmp_path / path.stem
        shutil.copytree(tmp_path / "whole", out)
        (out / "checkpoints/last.ckpt").unlink()
        shutil.copy(path, out / "checkpoints")
        net = fit.fit(made.cfg, view(made), out, cache=tmp_path / "features")
        assert same(net, whole), path.name
        assert journal(out) == journal(tmp_path / "whole"), path.name
        ends = [torch.load(o / "checkpoints/last.ckpt", weights_only=True) for o in (tmp_path / "whole", out)]
        assert ends[0]["global_step"] == ends[1]["global_step"], path.name
        assert all(torch.equal(a, b) for a, b in zip(*(e["state_dict"].values() for e in ends), strict=True)), path.name


@pytest.mark.slow
def test_a_training_that_is_killed_thrice_ends_in_the_same_bits() -> None:
    """Real processes and SIGKILL, once while a checkpoint is half-written; bench/resume.py itself does 25."""
    command = [sys.executable, ROOT / "bench/resume.py", "--kills", "3", "--epochs", "8", "--cases", "threads"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    kills, half = done.stdout.splitlines()[1].split()[1:3]
    assert int(kills) == 3
    assert int(half) >= 1
    assert done.stdout.rstrip().endswith("equal")


@pytest.mark.slow
def test_two_processes_end_in_equal_hashes() -> None:
    command = [sys.executable, ROOT / "bench/reproducibility.py", "--tasks", "text", "series", "--epochs", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("equal") == 8
