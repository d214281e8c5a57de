"""`proj train --dry-run`: checks what can be checked, says what would happen, and makes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from made_projects import Finished, digits, photos, trashnet, weights_file

from proj import runs
from proj.errors import ConfigError, DataError, ResourceError
from proj.verbs import plan
from proj.verbs.job import Job


def planned(job: Job, *, fast: bool = False) -> dict[str, Any]:
    return plan.plan(job, fast=fast)


def test_it_says_what_would_happen(finished: Finished) -> None:
    said = planned(digits(finished.project.root, "trainer.max_epochs=3", "trainer.device=cpu"))
    assert said["task"] == "digits"
    assert said["data"].startswith("prepared: ")
    assert (said["rows"], said["epochs"], said["folds"]) == (1797, 3, 0)
    assert (said["backbone"], said["weights"], said["device"]) == ("test_resnet", "random", "cpu, auto")
    assert said["steps"] == 3 * -(-round(1797 * 0.7) // finished.job.cfg.trainer.batch_size)


def test_it_trains_and_decodes_nothing(tmp_path: Path) -> None:
    source = photos(tmp_path / "photos")
    said = planned(trashnet(tmp_path / "p", f"data.source='{source}'"))
    assert (said["data"], said["rows"]) == (f"would be prepared from {source}", 72)
    assert not (tmp_path / "p/models").exists()
    assert not list((tmp_path / "p").rglob("*.npy"))


def test_what_is_not_here_is_not_fetched(tmp_path: Path) -> None:
    said = planned(digits(tmp_path))
    assert said["data"] == "would be fetched from package:sklearn/datasets/data/digits.csv.gz"
    assert (said["rows"], said["steps"]) == (None, None)
    assert list(tmp_path.iterdir()) == []


def test_sample_and_fast_and_weights(tmp_path: Path) -> None:
    file = weights_file(tmp_path)
    said = planned(digits(tmp_path, "data.source=sample", f"model.weights='{file}'", "model.freeze=true"), fast=True)
    assert (said["rows"], said["epochs"], said["steps"], said["data"]) == (120, 1, 1, "synthetic sample")
    assert (said["backbone"], said["weights"]) == ("test_resnet, frozen", str(file))


@pytest.mark.parametrize(
    ("override", "error", "says"),
    [
        ("model.backbone=resnet5", ConfigError, "no backbone 'resnet5'"),
        ("model.weights=nowhere.pt", ConfigError, "is not a file"),
        ("data.source=/nowhere", DataError, "/nowhere"),
    ],
)
def test_what_the_run_would_raise_is_raised(tmp_path: Path, override: str, error: type[Exception], says: str) -> None:
    words = ["data.source=sample"] if "source" not in override else []
    with pytest.raises((error, DataError), match=says):
        planned(digits(tmp_path, *words, override))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.device=cuda is not there"):
        planned(digits(tmp_path, "data.source=sample", "trainer.device=cuda"))


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "free_bytes", lambda _: 10_000_000)
    with pytest.raises(ResourceError, match=r"10\.0 MB are free"):
        planned(digits(tmp_path, "data.source=sample"))


def test_it_is_shown_as_lines_and_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = planned(digits(tmp_path))
    plan.show(said, as_json=True)
    assert json.loads(capsys.readouterr().out) == said
    plan.show(said, as_json=False)
    out = capsys.readouterr().out
    assert "without --dry-run" in out
    assert "None" not in out
