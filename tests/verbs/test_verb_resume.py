"""`proj train --resume` as its user gives it: stopped, killed, refused, extended, again and again."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import PROJ, call, make_project
from made_projects import SMALLEST, Finished, digits, project

from proj import runs
from proj.project import Project
from proj.runs import Record
from proj.train import fit, stop
from proj.verbs import job as jobs
from proj.verbs import resume
from proj.verbs import train as verb
from proj.verbs.job import Job

LONG = ("trainer.max_epochs=500", "trainer.checkpoint_every_steps=7")


def copy(finished: Finished, folder: Path) -> Path:
    """The finished run in a project of its own; the prepared data are where they were."""
    root = make_project(folder / "project")
    shutil.copytree(finished.project.models, root / "models")
    shutil.copytree(finished.project.data, root / "data")
    return root


def until(happened: Any, *, within_s: float = 90) -> None:
    end = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)


def begun(root: Path, *words: str, **environ: str) -> subprocess.Popen[str]:
    """A training as a process of its own, that has written a checkpoint."""
    import os

    command = [PROJ, "train", *SMALLEST, *words]
    process = subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True, env={**os.environ, **environ})
    until(lambda: process.poll() is not None or list(root.glob("models/digits/*/checkpoints/step-*.ckpt")))
    assert process.poll() is None
    return process


def only_run(root: Path) -> Path:
    return next((root / "models/digits").iterdir())


@pytest.mark.slow
def test_sigterm_leaves_a_checkpoint_of_that_step_and_resume_finishes_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_project(tmp_path / "p")
    process = begun(root, *LONG, "trainer.checkpoint_every_min=0")
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 143, said
    run = only_run(root)
    record = runs.read(run)
    assert record.status == "failed"
    assert f"`proj train --resume {record.run}` goes on" in said
    kept = sorted((run / "checkpoints").glob("step-*.ckpt"))
    assert 1 <= len(kept) <= 2
    assert f"SIGTERM: checkpoint of step {int(kept[-1].stem[5:])}" in said
    assert not list(run.rglob("*.tmp"))
    monkeypatch.chdir(root)
    epoch = torch.load(kept[-1], weights_only=True)["epoch"]
    done = call(capsys, "train", "--resume", record.run, f"trainer.max_epochs={epoch + 1}", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["run"] == str(run)
    assert runs.read(run).status == "finished"
    assert (run / "bundle/model.onnx").is_file()
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert "went on at" in runs.read(run).notes[0]


class Metadata(BaseHTTPRequestHandler):
    """Google's metadata server, as far as preemption goes: TRUE once the test says so."""

    gone = threading.Event()

    def do_GET(self) -> None:
        assert self.headers["Metadata-Flavor"] == "Google"
        assert self.path.startswith("/computeMetadata/v1/instance/preempted?")
        self.gone.wait(30)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"TRUE\n")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def metadata() -> Iterator[str]:
    Metadata.gone.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    Metadata.gone.set()
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_a_preemption_notice_leaves_a_checkpoint_and_stops(tmp_path: Path, metadata: str) -> None:
    root = make_project(tmp_path / "p")
    process = begun(root, *LONG, GCE_METADATA_HOST=metadata)
    Metadata.gone.set()
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 143, said
    assert "preempted: checkpoint of step" in said


def test_a_machine_that_is_no_cloud_asks_no_metadata_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GCE_METADATA_HOST", raising=False)
    monkeypatch.setattr(stop, "BOARD", tmp_path / "nothing")
    assert stop.metadata_host() == ""
    (tmp_path / "board").write_text("Google Compute Engine\n")
    monkeypatch.setattr(stop, "BOARD", tmp_path / "board")
    assert stop.metadata_host() == "metadata.google.internal"


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (["--resume", "first"], 2, "first is finished"),
        (["--resume", "digits"], 2, "no unfinished run is called 'digits'"),
        (["--resume", "nothing"], 2, "no unfinished run is called 'nothing'"),
        (["--resume", "first", "model.lr=1"], 2, "cannot change model.lr"),
        (["--resume", "first", "seed=3"], 2, "cannot change seed"),
        (["--resume", "first", "task=trashnet"], 2, "cannot change task"),
        (["--resume", "first", "--name", "x"], 2, "leave out --name"),
        (["--resume", "first", "--replace"], 2, "leave out --replace"),
        (["--resume", "first", "--fast", "--dry-run"], 2, "leave out --dry-run and --fast"),
        (["--resume", "auto", "--fast", "--replace"], 2, "leave out --replace"),
        (["--resume", "first", "trainer.max_epochs=0"], 2, "trainer.max_epochs is out of range"),
        (["--resume", "first", "+trainer.max_epochs=0"], 2, "trainer.max_epochs is out of range"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)
def test_what_cannot_go_on_is_refused_and_left_alone(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    words: list[str], code: int, error: str,
) -> None:  # fmt: skip
    root = copy(finished, tmp_path)
    before = (root / "models/digits/first/run.json").read_bytes()
    monkeypatch.chdir(root)
    said = call(capsys, "train", *words)
    assert said.code == code
    assert error in said.err
    assert "Traceback" not in said.err
    assert (root / "models/digits/first/run.json").read_bytes() == before


@pytest.mark.slow
def test_a_finished_run_trains_on_with_more_epochs(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = copy(finished, tmp_path)
    monkeypatch.chdir(root)
    assert call(capsys, "train", "--resume", "first", "trainer.max_epochs=3").code == 0
    run = root / "models/digits/first"
    assert len((run / "metrics.csv").read_text().splitlines()) == 4
    assert (run / "config.yaml").read_text().count("max_epochs: 3") == 1


def test_auto_begins_goes_on_and_then_has_nothing_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_project(tmp_path / "p")
    command = ["train", "--resume", "auto", *SMALLEST, "trainer.max_epochs=1", "--json"]
    monkeypatch.chdir(root)
    whole = fit.fit
    monkeypatch.setattr(fit, "fit", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    first = call(capsys, *command)
    assert first.code == 130
    assert "a new one begins" in first.err
    monkeypatch.setattr(fit, "fit", whole)
    second = call(capsys, *command)
    assert second.code == 0
    assert "goes on" in second.err
    monkeypatch.setattr(fit, "fit", None)  # what is finished is not trained again
    third = call(capsys, *command)
    assert third.code == 0
    assert "nothing to do" in third.err
    assert json.loads(third.out) == json.loads(second.out)
    assert len(list((root / "models/digits").iterdir())) == 1


def ended(models: Path, name: str, *, fast: bool) -> None:
    """A finished run of no overrides, as far as `--resume auto` looks at it."""
    (models / "digits" / name).mkdir(parents=True)
    runs.write(models / "digits" / name, Record(task="digits", run=name, status="finished", fast=fast))
    content = {"task": "digits", "split": "test", "metrics": {"accuracy": 0.5}}
    runs.write_json(models / "digits" / name / "metrics.json", content)


def test_auto_takes_a_fast_run_for_a_fast_one_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_project(tmp_path / "p")
    monkeypatch.chdir(root)
    for name, words in {"whole": (), "quick": ("--fast",)}.items():
        ended(root / "models", name, fast=name == "quick")
        said = call(capsys, "train", "--resume", "auto", *words, "--json")
        assert said.code == 0, said.err
        assert "nothing to do" in said.err
        assert Path(json.loads(said.out)["run"]).name == name


@pytest.mark.parametrize("fast", [False, True])
def test_auto_begins_a_new_run_beside_one_that_was_made_otherwise(tmp_path: Path, fast: bool) -> None:
    job = jobs.job([], project(tmp_path))
    ended(job.project.models, "other", fast=not fast)
    assert resume.named("auto", job, [], verb.work, fast=fast) is None


@pytest.mark.parametrize("word", ["track=wandb", "+track=wandb", "++track.kind=wandb"])
def test_a_tracker_may_be_named_with_and_without_a_plus(finished: Finished, tmp_path: Path, word: str) -> None:
    root = copy(finished, tmp_path)
    shutil.copytree(root / "models/digits/first", root / "models/digits/second")
    record = runs.read(root / "models/digits/second")
    runs.write(root / "models/digits/second", replace(record, run="second", status="failed"))
    seen = []

    def work(job: Job, *_: Any) -> dict[str, Any]:
        seen.append(job.cfg.track.kind)
        return {}

    resume.resume(root / "models/digits/second", Project(root, root / "configs", "a test's"), [word], work)
    assert seen == ["wandb"]


@pytest.mark.slow
def test_folds_that_are_done_are_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("trainer.max_epochs=1", "trainer.folds=3")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = verb.train(digits(tmp_path / "a", *words), fast=True, name="run")[1]
    made, real, calls = digits(tmp_path / "b", *words), fit.fit, []

    def cut(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(fit, "fit", cut)
    with pytest.raises(KeyboardInterrupt):
        verb.train(made, fast=True, name="run")
    got = resume.resume(made.project.models / "digits/run", made.project, [], verb.work).content
    assert len(calls) == 4  # one, the one that was cut, and the two that were left
    assert got["metrics"] == whole["metrics"]
    a, b = (np.load(p / "models/digits/run/predictions.npz")["prob"] for p in (tmp_path / "a", tmp_path / "b"))
    assert np.array_equal(a, b)
