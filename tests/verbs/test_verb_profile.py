"""`proj profile`: its words, its JSON, and that it leaves no run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from commands import Said, call, make_project
from made_projects import SMALLEST

from proj.train import measure, watch


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project, entered; the machine's own speed is looked at shortly."""
    monkeypatch.setattr(measure, "ROOF_S", 0.05)
    project = make_project(tmp_path / "p")
    monkeypatch.chdir(project)
    return project


def profiled(capsys: pytest.CaptureFixture[str], *words: str) -> Said:
    said = call(capsys, "profile", *SMALLEST, "data.source=sample", "--steps", "4", *words)
    assert said.code == 0, said.err
    return said


@pytest.mark.slow
def test_one_json_document_and_no_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = profiled(capsys, "--json", "trainer.device=cpu")
    content = json.loads(said.out)
    assert (content["task"], content["device"], content["precision"], content["threads"]) == (
        "digits", "cpu", "32-true", 1)  # fmt: skip
    assert set(content["shares"]) == set(watch.SECTIONS)
    assert sum(content["shares"].values()) == pytest.approx(1)
    assert content["steps"] == 4
    assert content["step_ms"] > 0
    assert content["rows_per_s"] == pytest.approx(content["gflop_per_s"] / content["gflop_per_row"])
    assert min(content["roof_gflop_per_s"].values()) > 0
    assert content["extraction"] is None
    assert content["next"].startswith("proj train task=digits")
    assert {p["part"] for p in content["parts"]} >= {"run_training_batch", "[Callback]Journal.on_train_batch_end"}
    assert not (here / "models").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    out = profiled(capsys).out
    assert re.search(r"^4 steps: [\d.,]+ ms each, [\d,]+ images/s$", out, re.MULTILINE)
    for section in ("input", "forward", "backward", "optimizer", "loop"):
        assert re.search(rf"^{section} +\d+\.\d % +{re.escape(watch.SECTIONS[section])}$", out, re.MULTILINE), section
    for row in ("model ", "speed ", "roof ", "memory ", "change ", "next "):
        assert re.search(f"^{row}", out, re.MULTILINE), row
    assert re.search(r"^operation +share +ms a step +calls +shapes", out, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_a_frozen_backbone_is_told_in_two_parts(capsys: pytest.CaptureFixture[str]) -> None:
    out = profiled(capsys, "model.freeze=true").out
    assert re.search(r"^features of the frozen backbone: [\d,]+ images/s, .* once$", out, re.MULTILINE)
    assert "4 steps of the head: " in out
    content = json.loads(profiled(capsys, "model.freeze=true", "--json").out)
    assert content["extraction"]["rows_per_s"] > 0
    assert content["extraction"]["operations"]


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_what_is_advised_takes_the_place_of_what_was_given(capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads(profiled(capsys, "model.freeze=true", "model.cache=false", "--json").out)
    assert content["advice"][0]["change"][0] == "model.cache=true"
    assert "model.cache=true" in content["next"]
    assert "model.cache=false" not in content["next"]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["modle.lr=1"], "did you mean model.lr?"),
        (["--steps", "0"], "--steps"),
        (["model.backbone=resnet5", "data.source=sample"], "no backbone 'resnet5'"),
    ],
    ids=str,
)
def test_errors_are_as_everywhere(capsys: pytest.CaptureFixture[str], words: list[str], says: str) -> None:
    said = call(capsys, "profile", *words)
    assert (said.code, said.out) == (2, "")
    assert says in said.err
    assert "Traceback" not in said.err
