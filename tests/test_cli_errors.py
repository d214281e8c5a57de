"""Bad arguments: the right exit code, what was found and the next command, no traceback, nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import call, contents, make_project, proj

BAD: list[tuple[str, int, str, str]] = [
    # arguments, exit code, what was found, the next command
    ("trian", 2, "'trian'", "did you mean `proj train`?"),
    ("zzz", 2, "'zzz'", "the verbs are"),
    ("--nope", 2, "--nope", "proj --help"),
    ("train --fsat", 2, "--fsat", "--fast"),
    ("config --jsno", 2, "--jsno", "--json"),
    ("data chekc x", 2, "'chekc'", "did you mean `proj data check`?"),
    ("data check", 2, "folder", "proj data check --help"),
    ("predict", 2, "FILE", "proj predict --help"),
    ("predict a.png --run", 2, "--run", "--help"),
    ("export a b", 2, "(b)", "proj export --help"),
    ("doctor now", 2, "(now)", "proj doctor --help"),
    ("serve --port http", 2, "'http'", "proj serve --help"),
    ("config modle.lr=1", 2, "'modle.lr'", "did you mean model.lr?"),
    ("config modle=small", 2, "'modle'", "did you mean model=?"),
    ("train model=smal --json", 2, "'smal'", "did you mean model=small?"),
    ("train task=digitz", 2, "'digitz'", "did you mean task=digits?"),
    ("data task=trashnett", 2, "'trashnett'", "did you mean task=trashnet?"),
    ("train experiment=none", 2, "'none'", "add one"),
    ("train seed=seven --json", 2, "'seven'", "a whole number"),
    ("train trainer.max_epochs=0", 2, "0", "1 or more"),
    ("train trainer.device=tpu", 2, "'tpu'", "auto, cpu, cuda or mps"),
    ("train model.lr=1,2", 2, "several values", "one value a run"),
    ("train lr", 2, "'lr'", "`proj config`"),
    ("train --name ../x", 2, "'../x'", "letters, digits"),
    ("train --name taken", 2, "taken", "--replace"),
    ("train -- --fast", 2, "--fast", "key=value"),
    ("train data.source=nope", 1, "nope", "a path, an archive"),
    ("data data.source=nope --json", 1, "nope", "a path, an archive"),
    ("data check nope", 1, "nope", "folder"),
    ("evaluate --json", 2, "no finished run", "`proj train`"),
    ("evaluate nope", 2, "'nope'", "`proj train`"),
    ("export take", 2, "'take'", "did you mean taken?"),
    ("evaluate configs", 2, "run.json", "`proj train`"),
    ("predict a.png", 2, "no finished run", "`proj train`"),
    ("predict a.png --run nope --json", 2, "'nope'", "`proj train`"),
    ("predict a.png --run ftp://x/y", 2, "ftp://x/y", "https://"),
    ("serve nope", 2, "'nope'", "`proj train`"),
    ("--project none config", 2, "none", "folder"),
    ("config --project", 2, "--project", "folder"),
    ("config --project pyproject.toml", 2, "pyproject.toml", "folder"),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with data and one failed run, entered."""
    project = make_project(tmp_path / "p")
    run = project / "models" / "digits" / "taken"
    run.mkdir(parents=True)
    (run / "run.json").write_text('{"task": "digits", "run": "taken", "status": "failed"}')
    (project / "data" / "raw").mkdir(parents=True)
    (project / "data" / "raw" / "mine").write_text("mine")
    monkeypatch.chdir(project)
    return project


@pytest.mark.parametrize(("words", "code", "found", "after"), BAD, ids=[b[0] for b in BAD])
def test_bad_arguments(
    here: Path, capsys: pytest.CaptureFixture[str], words: str, code: int, found: str, after: str
) -> None:
    before = contents(here)
    said = call(capsys, *words.split())
    assert (said.code, said.out) == (code, "")
    error = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert found in error[0]
    assert after in error[0]
    assert "Traceback" not in said.err
    assert contents(here) == before


@pytest.mark.parametrize(
    "words", ["trian", "config modle.lr=1 --json", "predict a.png --json", "data data.source=nope --json"]
)
def test_the_same_from_a_real_process(here: Path, words: str) -> None:
    code, found = next((c, f) for w, c, f, _ in BAD if w == words or f"{w} --json" == words)
    before = contents(here)
    done = proj(*words.split(), cwd=here)
    assert (done.returncode, done.stdout) == (code, "")
    assert found in done.stderr
    assert "Traceback" not in done.stderr
    assert contents(here) == before
