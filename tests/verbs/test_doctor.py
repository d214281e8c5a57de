"""`proj doctor`: what is there, what is lacking, and how to mend it."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest
from commands import call, contents, make_project

from proj.project import find_project
from proj.verbs import doctor
from proj.verbs.doctor import Finding


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    project = make_project(tmp_path / "p")
    monkeypatch.chdir(project)
    return project


def found(here: Path, what: str) -> Finding:
    return next(f for f in doctor.examine(find_project(here)) if f.what == what)


def test_a_whole_project_is_found_whole(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(here)
    said = call(capsys, "doctor")
    assert said.code == 0
    assert "BAD" not in said.out
    for what in ("python", "extra train", "device", "project", "folders", "disk", "data digits", "runs", "account W&B"):
        assert f"  {what} " in said.out, what
    assert contents(here) == before
    document = json.loads(call(capsys, "doctor", "--json").out)
    assert {"what", "state", "found", "mend"} == set(document[0])
    assert all(f["mend"] for f in document if f["state"] == "bad")


@pytest.mark.usefixtures("here")
def test_an_extra_that_is_lacking_is_bad_and_says_how_to_add_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name in {"torch", "timm"} else real(name, *a)
    )
    said = call(capsys, "doctor")
    assert said.code == 1
    line = next(line for line in said.out.splitlines() if "extra train" in line)
    assert line.startswith("BAD")
    assert "torch, timm" in line
    assert "uv sync --extra train" in line
    assert "torch is not installed" in said.out
    said = call(capsys, "train")
    assert said.code == 2
    assert "uv sync --extra train" in said.err


def test_low_disk_is_a_note(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proj.runs.free_bytes", lambda _: 10**9)
    assert (found(here, "disk").state, found(here, "disk").found) == ("note", "1.0 GB free")


def test_a_folder_that_cannot_be_written_is_bad(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    finding = found(here, "folders")
    assert (finding.state, str(here / "data") in finding.found) == ("bad", True)


def test_a_folder_without_a_project_is_a_note(tmp_path: Path) -> None:
    finding = next(f for f in doctor.examine(find_project(tmp_path)) if f.what == "project")
    assert (finding.state, "[tool.proj]" in finding.mend) == ("note", True)


def test_runs_and_data_that_are_there_are_counted(here: Path) -> None:
    run = here / "models" / "digits" / "r"
    run.mkdir(parents=True)
    (run / "run.json").write_text('{"task": "digits", "run": "r", "status": "finished"}')
    prepared = here / "data" / "prepared" / "digits" / "k"
    prepared.mkdir(parents=True)
    (prepared / "meta.json").write_text("{}")
    assert (found(here, "runs").state, found(here, "runs").found) == ("ok", "1 runs, 1 finished on real data")
    assert found(here, "data digits").found == "1 prepared"
    assert found(here, "data trashnet").mend == "`proj data task=trashnet`"


@pytest.mark.parametrize(("name", "what"), [("WANDB_API_KEY", "account W&B"), ("HF_TOKEN", "account Hugging Face")])
def test_an_account_is_found_and_its_key_never_shown(
    here: Path, monkeypatch: pytest.MonkeyPatch, name: str, what: str
) -> None:
    monkeypatch.delenv(name, raising=False)
    assert found(here, what).state == "note"
    monkeypatch.setenv(name, "very-secret")
    assert found(here, what).state == "ok"
    assert "very-secret" not in "\n".join(doctor.lines(doctor.examine(find_project(here))))
