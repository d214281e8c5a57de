"""`tune=...`: what is found by trying ends in the run's config, and is not tried twice. Real steps on 240 rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from made_projects import digits, prepared, view

from proj.errors import CannotCompile, ConfigError
from proj.train import finders, settle, speed, trial
from proj.verbs import job as jobs
from proj.verbs import train as verb
from proj.verbs.job import Job


def made(folder: Path, *overrides: str) -> Job:
    return digits(folder, "trainer.max_epochs=2", *overrides)


def tried(job: Job, folder: Path) -> dict[str, object]:
    """What tune.json says after tuning the job in `folder`."""
    run = folder / "run"
    run.mkdir(exist_ok=True)
    verb.tune(job, prepared(job, fast=True), run)
    content: dict[str, object] = json.loads((run / "tune.json").read_text())
    return content


@pytest.mark.slow
def test_a_rate_is_found_where_the_loss_falls_and_the_run_trains_with_it(tmp_path: Path) -> None:
    run, _ = verb.train(made(tmp_path, "tune=lr"), fast=True, name="run")
    found = json.loads((run / "tune.json").read_text())
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert found["chosen"] == {"model.lr": config["model"]["lr"]}
    assert config["tune"] == "off"
    assert 1e-5 < config["model"]["lr"] < 1
    assert (run / "tune-lr.png").stat().st_size > 5_000
    assert len(found["lr"]) == len(found["loss"]) > 20
    assert found["lr"] == sorted(found["lr"])


@pytest.mark.slow
def test_the_largest_batch_is_the_one_that_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = made(tmp_path, "tune=batch", "model.input_size_px=64")
    all_ = tried(job, tmp_path)
    assert all_["chosen"] == {"trainer.batch_size": job.cfg.trainer.batch_size}
    sizes = [t["batch_size"] for t in all_["tried"]]  # type: ignore[attr-defined]
    assert sizes == [8, 16, 32, 64, 128]  # there are some 160 rows
    assert (tmp_path / "run/tune-batch.png").is_file()
    monkeypatch.setattr(trial, "free_memory", lambda _: 0)
    less = made(tmp_path, "tune=batch", "model.input_size_px=64")
    tried(less, tmp_path)
    assert less.cfg.trainer.batch_size == 8


def test_what_a_batch_will_need_is_foreseen() -> None:
    tried = [{"batch_size": 8, "bytes": 100}, {"batch_size": 16, "bytes": 180}]
    assert finders._foreseen(tried) == 180 + 160
    assert finders._foreseen(tried[:1]) == 200


@pytest.mark.slow
def test_what_changes_weights_is_timed_only_where_that_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(speed, "_search", lambda _, names: asked.append(names) or {"chosen": {}, "tried": []})
    for words in (["tune=auto"], ["tune=auto", "trainer.deterministic=false"], ["tune=threads"]):
        tried(made(tmp_path, *words), tmp_path)
    assert asked == [("workers",), ("workers", "threads", "precision", "compile"), ("threads",)]


def test_a_choice_that_is_clearly_faster_is_kept_and_not_timed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = {"32": 1.0, "bf16": 0.5}
    calls: list[str] = []

    def step_s(s: trial.Setting, **_: object) -> float:
        calls.append(s.cfg.trainer.precision)
        assert s.device.precision == {"32": "32-true", "bf16": "bf16-mixed"}[s.cfg.trainer.precision]
        return times[s.cfg.trainer.precision]

    monkeypatch.setattr(trial, "step_s", step_s)
    first, second = (made(tmp_path, "tune=precision") for _ in range(2))
    found = tried(first, tmp_path)
    assert calls == ["32", "bf16"]
    assert [t["setting"] for t in found["tried"]] == ["as the rules say", "trainer.precision=bf16"]  # type: ignore[attr-defined]
    tried(second, tmp_path)
    assert calls == ["32", "bf16"]
    assert (first.cfg.trainer.precision, second.cfg.trainer.precision) == ("bf16", "bf16")
    tried(made(tmp_path, "tune=precision", "trainer.batch_size=48"), tmp_path)  # another question
    assert len(calls) == 4
    times["bf16"] = 0.97  # not clearly
    third = made(tmp_path, "tune=precision", "trainer.batch_size=16")
    tried(third, tmp_path)
    assert third.cfg.trainer.precision == "32"


def test_a_network_that_cannot_be_compiled_is_tuned_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step_s(s: trial.Setting, **_: object) -> float:
        if s.cfg.trainer.compile == "always":
            raise CannotCompile("test_resnet cannot be compiled here")
        return 1.0

    monkeypatch.setattr(trial, "step_s", step_s)
    monkeypatch.setattr(settle, "has_compiler", lambda: True)
    found = tried(made(tmp_path, "tune=compile"), tmp_path)
    assert found["chosen"] == {"trainer.compile": "never"}
    assert [t["setting"] for t in found["tried"]] == ["as the rules say"]  # type: ignore[attr-defined]


def test_a_step_is_really_timed(tmp_path: Path) -> None:
    job = made(tmp_path)
    s = trial.begin(job.cfg, view(job), tmp_path / "features")
    before = {k: v.clone() for k, v in s.net.state_dict().items()}
    assert 1e-4 < trial.step_s(s, steps=5) < 5
    assert all((before[k] == v).all() for k, v in s.net.state_dict().items())


def test_an_unknown_word_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tune is out of range"):
        jobs.job(["tune=everything"], made(tmp_path).project)
