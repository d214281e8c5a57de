"""`proj train` as a function: the run directory that it leaves, whatever ends it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from made_projects import TOKEN, Finished, digits, prepared

from proj import infer, resolve, runs
from proj.errors import ConfigError, RunNotFound, UsageError
from proj.report import run as report
from proj.runs import Record
from proj.train import export
from proj.verbs import job as jobs
from proj.verbs import train as verb


def test_a_run_directory_holds_all_that_is_promised(finished: Finished) -> None:
    have = {p.relative_to(finished.run).as_posix() for p in finished.run.rglob("*") if p.is_file()}
    assert have >= {
        "run.json", "config.yaml", "git.diff", "train.log", "metrics.csv", "metrics.json", "predictions.npz",
        "checkpoints/best.ckpt", "checkpoints/last.ckpt", "bundle/model.onnx", "bundle/bundle.json", "report.html",
    }  # fmt: skip
    assert not [n for n in have if "tmp" in n]


def test_the_record_says_what_made_it(finished: Finished) -> None:
    r = runs.read(finished.run)
    p = prepared(finished.job)
    assert (r.task, r.run, r.status, r.error) == ("digits", "first", "finished", "")
    assert (r.data_hash, r.prepared, r.source) == (p.meta.data_hash, str(p.folder), p.meta.source)
    assert r.overrides == list(finished.job.composed.overrides)
    assert set(r.seconds) == {"prepare", "train", "evaluate", "export"}
    assert r.versions["torch"] == torch.__version__.split("+")[0] or torch.__version__.startswith(r.versions["torch"])
    assert r.device in {"cpu", "cuda", "mps"}
    assert r.started <= r.ended
    assert runs.eligible(r)
    assert not (r.fast)
    assert not (r.sample)
    assert not (r.folds)


def test_the_working_trees_diff_is_kept_and_its_secrets_are_not(finished: Finished) -> None:
    assert runs.read(finished.run).git["dirty"] is True
    assert len(runs.read(finished.run).git["commit"]) == 40
    diff = (finished.run / "git.diff").read_text()
    assert "+++ b/notes.py" in diff
    assert TOKEN not in diff
    assert "***" in diff


def test_the_log_is_in_the_run(finished: Finished) -> None:
    log = (finished.run / "train.log").read_text()
    assert "epoch 1: train_loss" in log
    assert "export: ONNX Runtime equals torch" in log


def test_the_config_that_is_kept_makes_the_same_job(finished: Finished) -> None:
    again = jobs.of_run(finished.run, finished.project)
    assert again.cfg == finished.job.cfg
    assert again.task is finished.job.task
    assert yaml.safe_load((finished.run / "config.yaml").read_text())["trainer"]["max_epochs"] == 2


def test_what_is_returned_is_what_is_written(finished: Finished) -> None:
    assert json.loads((finished.run / "metrics.json").read_text()) == finished.content
    common, probe = (b["metrics"]["accuracy"] for b in finished.content["baselines"])
    assert common < finished.content["metrics"]["accuracy"] > probe - 0.2  # two epochs
    p = prepared(finished.job)
    assert sum(map(sum, finished.content["confusion"])) == len(p.rows("test"))


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs whose bundle and report do not matter: those take most of the time."""
    monkeypatch.setattr(export, "export", lambda *_: None)
    monkeypatch.setattr(report, "write", lambda run, _: run / "report.html")


@pytest.mark.usefixtures("short")
def test_the_same_command_again_ends_in_the_same_weights(finished: Finished) -> None:
    run, content = verb.train(finished.job, fast=False, name="second")
    states = [torch.load(r / "checkpoints/best.ckpt", weights_only=True)["state_dict"] for r in (finished.run, run)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert content["metrics"] == finished.content["metrics"]
    with np.load(run / "predictions.npz") as a, np.load(finished.run / "predictions.npz") as b:
        assert np.array_equal(a["prob"], b["prob"])


def test_a_run_that_fails_says_so(tmp_path: Path) -> None:
    job = digits(tmp_path, f"model.weights={tmp_path}/none.pt")
    with pytest.raises(ConfigError, match="is not a file"):
        verb.train(job, fast=True, name="one")
    r = runs.read(tmp_path / "models/digits/one")
    assert r.status == "failed"
    assert "none.pt is not a file" in r.error
    assert r.ended
    with pytest.raises(RunNotFound):
        resolve.resolve(None, tmp_path / "models")


def test_ctrl_c_in_training_marks_the_run_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from proj.train.model import LitModel

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(LitModel, "training_step", stop)
    with pytest.raises(KeyboardInterrupt):
        verb.train(digits(tmp_path), fast=True, name="one")
    r = runs.read(tmp_path / "models/digits/one")
    assert (r.status, r.error) == ("failed", "KeyboardInterrupt")
    with runs.lock(tmp_path / "models/digits/one"):
        pass  # it was let go


def test_a_name_that_is_taken_is_refused_before_anything_is_trained(finished: Finished) -> None:
    before = (finished.run / "run.json").stat().st_mtime_ns
    with pytest.raises(UsageError, match="--replace"):
        verb.train(finished.job, fast=False, name="first")
    assert (finished.run / "run.json").stat().st_mtime_ns == before


@pytest.mark.usefixtures("short")
def test_replace_takes_the_place_of_an_earlier_run(tmp_path: Path) -> None:
    run, _ = verb.train(digits(tmp_path, "data.source=sample"), fast=True, name="one")
    (run / "of the first").touch()
    verb.train(digits(tmp_path, "data.source=sample"), fast=True, name="one", replace=True)
    assert not (run / "of the first").exists()
    assert runs.read(run).status == "finished"


def test_folds_test_every_row_once_and_export_nothing(finished: Finished) -> None:
    job = digits(finished.project.root, "trainer.folds=3", "trainer.max_epochs=1")
    run, content = verb.train(job, fast=False, name="folds")
    p = prepared(job)
    with np.load(run / "predictions.npz") as z:
        assert sorted(z["index"].tolist()) == list(range(len(p.x)))
        assert np.array_equal(z["y"], p.y[z["index"]])
    assert [f["fold"] for f in content["folds"]] == [0, 1, 2]
    values = [f["metrics"]["accuracy"] for f in content["folds"]]
    assert content["mean"]["accuracy"] == pytest.approx(np.mean(values))
    assert content["std"]["accuracy"] == pytest.approx(np.std(values, ddof=1))
    assert content["metrics"] == content["mean"]
    splits = [json.loads((run / f"folds/{i}/split.json").read_text()) for i in range(3)]
    groups = [g for s in splits for g in s["test_groups"]]
    assert sorted(groups) == sorted(set(p.group.tolist()))
    assert len({tuple(s["mean"]) for s in splits}) == 3
    assert not (run / "bundle").exists()
    assert (run / "report.html").is_file()
    assert not runs.eligible(runs.read(run))
    assert resolve.resolve(None, finished.project.models).run != run


@pytest.mark.slow
def test_answers_of_a_run_on_sample_data_carry_the_warning(tmp_path: Path) -> None:
    from proj.verbs import predict

    run, _ = verb.train(digits(tmp_path, "data.source=sample"), fast=True, name="one")
    from PIL import Image

    Image.fromarray(np.eye(20, dtype=np.uint8) * 255).save(tmp_path / "a.png")
    (answer,) = predict.predict(run / "bundle", [str(tmp_path / "a.png")])
    assert "synthetic data" in answer["warning"]
    assert "--fast" in answer["warning"]
    assert infer.load(run / "bundle").manifest.warning == answer["warning"]
    with pytest.raises(RunNotFound):
        resolve.resolve(None, tmp_path / "models")
    assert resolve.resolve("digits", tmp_path / "models").run == run


def test_a_killed_runs_status_is_failed(tmp_path: Path) -> None:
    record = Record(task="digits", run="")
    run = runs.create(tmp_path, record, name="one")
    with runs.lock(run):
        assert runs.read(run).status == "running"
    assert runs.read(run).status == "failed"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_the_digits_as_they_are_configured_reach_the_bar(tmp_path: Path, seed: int) -> None:
    from made_projects import project

    job = jobs.job([f"seed={seed}"], project(tmp_path))
    _, content = verb.train(job, fast=False)
    assert content["metrics"]["accuracy"] >= 0.985


def test_a_split_that_lacks_a_class_is_named(finished: Finished) -> None:
    p = prepared(finished.job)
    assert verb._lacking(p) == {}
    y = p.y.copy()
    y[p.rows("val")] = 3
    lacking = verb._lacking(replace(p, y=y))
    assert list(lacking) == ["val"]
    assert lacking["val"] == [n for n in p.meta.names if n != "3"]
