"""`proj serve RUN... key=value`: what is a RUN, what a setting, and what is refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from bundles import make_bundle
from commands import call

from proj.verbs.serve import split


def test_what_is_there_is_a_run_also_with_an_equals_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=1").mkdir()
    words = ["trashnet", "workers=2", "lr=1", "https://host/b?x=1", "gs://bucket/a=b", "lr=2"]
    assert split(words) == (["trashnet", "lr=1", "https://host/b?x=1", "gs://bucket/a=b"], ["workers=2", "lr=2"])


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["one", "two"], 2, "two models are called 'digits'"),
        (["one", "wrokers=2"], 2, "did you mean workers?"),
        (["one", "threshold=2"], 2, "threshold=2 is '2'"),
        (["one", "none"], 2, "'none'"),
        (["slash"], 2, "cannot be part of an address"),
        (["one", "host=192.0.2.1"], 2, "is not an address of this machine"),
        (["empty"], 2, "neither a run directory nor a bundle"),
        (["one", "precision=bf16"], 2, "ONNX Runtime has no precision=bf16"),
    ],
)
def test_what_cannot_be_served_ends_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    words: list[str], code: int, says: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    make_bundle(tmp_path / "one")
    make_bundle(tmp_path / "two", version="v2")
    make_bundle(tmp_path / "slash", name="../x")
    (tmp_path / "empty").mkdir()
    said = call(capsys, "serve", *words)
    assert (said.code, said.out) == (code, "")
    assert says in said.err
    assert "Traceback" not in said.err
