"""`proj.train.track`: what the trackers write, without an account and without a question."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from made_projects import Finished, digits, fitted

from proj.train import track

SECRET = "0123456789abcdef0123456789abcdef01234567"  # pragma: allowlist secret


def test_csv_alone_has_no_other_tracker(finished: Finished, tmp_path: Path) -> None:
    assert track.loggers(finished.job.cfg, tmp_path) == []


def test_tensorboard_writes_its_events(finished: Finished, tmp_path: Path) -> None:
    fitted(digits(finished.project.root, "track=tensorboard", "trainer.max_epochs=2"), tmp_path / "a")
    (events,) = (tmp_path / "a/tensorboard").glob("events.out.tfevents.*")
    content = events.read_bytes()
    for name in (b"train_loss", b"val_loss", b"val_accuracy", b"lr"):
        assert name in content


@pytest.mark.parametrize("where", ["environment", "netrc", "nowhere", "broken netrc"])
def test_a_key_is_found_where_wandb_looks(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    if where == "environment":
        monkeypatch.setenv("WANDB_API_KEY", SECRET)
    if where == "netrc":
        (tmp_path / "netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {SECRET}\n")
    if where == "broken netrc":
        (tmp_path / "netrc").mkdir()
    assert track._has_key() is (where in {"environment", "netrc"})


@pytest.mark.slow
def test_wandb_without_a_key_runs_offline_and_asks_nothing(tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")} | {"NETRC": str(tmp_path / "no")}
    (tmp_path / "home").mkdir()
    env |= {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "home/.cache")}
    words = ["data.source=sample", "model=small", "track=wandb", "--fast", "--name", "one"]
    done = subprocess.run(
        [sys.executable, "-m", "proj", "train", *words],
        cwd=tmp_path, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "W&B runs offline" in done.stderr
    run = tmp_path / "models/digits/one"
    (offline,) = (run / "wandb").glob("offline-run-*")
    assert list(offline.glob("*.wandb"))
    assert not (tmp_path / "wandb").exists()  # nothing outside the run
