"""The command line itself: help, version, completion, exit codes, signals, and how fast it starts."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from commands import PROJ, ROOT, call, contents, make_project, proj

from proj import cli, compose, ending, errors
from proj.verbs.job import options_of

VERBS = ("data", "train", "evaluate", "predict", "export", "serve", "keys", "profile", "config", "doctor")
COMMANDS = [[v] for v in VERBS] + [["data", "prepare"], ["data", "check"], ["data", "cache"]]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project, entered."""
    project = make_project(tmp_path / "p")
    monkeypatch.chdir(project)
    return project


# Help


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_opens_with_an_example_that_parses(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    said = call(capsys, *command, "--help")
    assert (said.code, said.err) == (0, "")
    lines = [line.strip() for line in said.out.splitlines() if line.strip()]
    assert lines[0].startswith("Usage: proj ")
    example = shlex.split(lines[1])
    assert example[:2] == ["proj", command[0]]
    args = example[1:]
    group = typer.main.get_command(cli.app)
    with group.make_context("proj", list(args)) as ctx:  # raises on a word that no option takes
        sub = group.get_command(ctx, args[0])  # type: ignore[attr-defined]
        with sub.make_context(args[0], args[1:], parent=ctx):
            pass
    words = [w for w in args if re.fullmatch(r"[\w.]+=.*", w)]
    if words:
        compose.compose(words, ROOT / "configs", options_of)


def test_help_names_every_verb_with_its_example(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--help"], ["-h"]):
        said = call(capsys, *words)
        assert said.code == 0
        for verb in VERBS:
            assert re.search(rf"^  {verb} +proj {verb}", said.out, re.MULTILINE), verb


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import version

    said = call(capsys, "--version")
    assert (said.code, said.out) == (0, f"proj {version('proj')}\n")


# --project


@pytest.mark.parametrize(
    "words",
    [["--project", "DIR", "config"], ["config", "--project", "DIR"], ["config", "--project=DIR", "seed=7"]],
    ids=str,
)
def test_project_may_stand_before_and_after_the_verb(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(here.parent)
    said = call(capsys, *(w.replace("DIR", str(here)) for w in words), "--json")
    assert json.loads(said.out)["project"] == str(here)


def test_after_two_dashes_nothing_is_an_option(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = call(capsys, "config", "--", "--project", str(here))
    assert said.code == 2
    assert "--project" in said.err


# proj config


def test_config_prints_yaml_with_the_origin_of_each_value(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import yaml

    said = call(capsys, "config", "task=trashnet", "seed=7")
    assert said.err == ""
    assert yaml.safe_load(said.out)["task"]["name"] == "trashnet"
    assert re.search(r"^seed: 7 +# command line$", said.out, re.MULTILINE)
    assert re.search(r"^  name: trashnet +# configs/task/trashnet.yaml$", said.out, re.MULTILINE)
    assert re.search(r"^  source: default +# default$", said.out, re.MULTILINE)
    assert f"# project {here}" in said.out
    document = json.loads(call(capsys, "config", "task=trashnet", "seed=7", "--json").out)
    assert document["config"] == yaml.safe_load(said.out)
    assert document["origins"]["seed"] == "command line"


@pytest.mark.usefixtures("here")
def test_the_printed_config_reads_back_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    import yaml

    odd = "x: #y 'z' é"
    said = call(capsys, "config", f'data.source="{odd}"', "model.weights='1e5'", "model.lr=1e-7")
    content = yaml.safe_load(said.out)
    assert (content["data"]["source"], content["model"]["weights"], content["model"]["lr"]) == (odd, "1e5", 1e-7)


# Exit codes


def leaves_of(kind: type[errors.ProjError]) -> list[type[errors.ProjError]]:
    return [kind, *(leaf for sub in kind.__subclasses__() for leaf in leaves_of(sub))]


@pytest.mark.parametrize("kind", leaves_of(errors.ProjError), ids=lambda k: k.__name__)
def test_every_error_ends_in_its_code_with_one_line(
    capsys: pytest.CaptureFixture[str], kind: type[errors.ProjError]
) -> None:
    def fail() -> None:
        raise kind("what", found="found", next="next")

    assert ending.guarded(fail) == kind.exit_code
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "error: what; found; next\n")
    assert kind.exit_code in {1, 2, 3, 70}
    line = next(line for line in (errors.__doc__ or "").splitlines() if re.search(rf"\b{kind.__name__}\b", line))
    numbers = re.findall(r"\d+", line)[:2]
    assert numbers == [str(kind.exit_code), str(kind.http_status)]


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C"),
        (ending.Terminated(), 143, "stopped by SIGTERM"),
        (OSError(28, "No space left on device", "models/x"), 1, "models/x: No space left on device; free space"),
        (OSError(30, "Read-only file system", "models/x"), 1, "Read-only file system"),
        (PermissionError(13, "Permission denied", "models/x"), 1, "Permission denied"),
        (MemoryError(), 1, "memory ran out"),
        (ZeroDivisionError("odd"), 70, "a bug in proj: ZeroDivisionError: odd"),
    ],
    ids=repr,
)
def test_every_other_end_has_its_code(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, says: str
) -> None:
    def fail() -> None:
        raise error

    assert ending.guarded(fail) == code
    said = capsys.readouterr()
    assert (said.out, says in said.err) == ("", True)
    assert ("Traceback" in said.err) == (code == 70)


def test_a_reader_that_has_seen_enough_is_no_error(here: Path) -> None:
    script = f"{shlex.quote(str(PROJ))} config | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], cwd=here, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[0].startswith("# project")
    assert (done.stdout.splitlines()[1], done.stderr) == ("0", "")


def test_a_reader_that_is_gone_is_no_error(here: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run([PROJ, "config"], cwd=here, stdout=write, stderr=subprocess.PIPE, timeout=60, check=False)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("environ", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {}], ids=str)
def test_no_colour_where_there_is_no_terminal(here: Path, environ: dict[str, str]) -> None:
    done = proj("train", "--dry-run", "data.source=nothing-here", cwd=here, **environ)
    assert done.returncode == 1
    assert "\x1b" not in done.stderr + done.stdout


# A run that is stopped


@pytest.mark.slow
@pytest.mark.parametrize(("sign", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"])
def test_a_stopped_training_says_so_and_leaves_nothing_half_written(here: Path, sign: int, code: int) -> None:
    process = subprocess.Popen(
        [PROJ, "train", "task=digits", "trainer.max_epochs=500", "--name", "stopped"],
        cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    run = here / "models" / "digits" / "stopped"
    deadline = time.monotonic() + 120
    while not (run / "metrics.csv").is_file():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(sign)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "")
    assert "Traceback" not in err
    assert json.loads((run / "run.json").read_text())["status"] == "failed"
    assert not (run / "bundle" / "bundle.json").exists()
    half = [p for p in here.rglob("*") if p.name.endswith((".tmp", ".part"))]
    assert half == []
    done = proj("predict", "x.png", "--json", cwd=here)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--replace" in proj("train", "--name", "stopped", cwd=here).stderr


# Completion, as the shells ask for it


def completed(here: Path, words: str, at: int) -> list[str]:
    done = proj(cwd=here, _PROJ_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(at))
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "at", "some", "exact"),
    [
        ("proj tra", 1, ["train"], True),
        ("proj train mod", 2, ["model=", "model.lr=", "model.backbone="], False),
        ("proj train task=tr", 2, ["task=trashnet"], True),
        ("proj train task = tr", 4, ["trashnet"], True),
        ("proj train task =", 3, ["digits", "trashnet"], False),
        ("proj config model.lr=1 task=trashnet task.bl", 4, ["task.block="], True),
        ("proj config task = trashnet task.bl", 5, ["task.block="], True),
        ("proj data task=d", 2, ["task=digits"], True),
        ("proj data ", 2, ["check", "cache", "task="], False),
        ("proj data ca", 2, ["cache"], True),
        ("proj config --js", 2, ["--json"], True),
        ("proj train nothing.at.all", 2, [], True),
        ("proj train task=nope task.", 3, [], True),
    ],
    ids=str,
)
def test_completion(here: Path, words: str, at: int, some: list[str], exact: bool) -> None:
    got = completed(here, words, at)
    assert got == some if exact else set(some) <= set(got)


def test_completion_knows_the_project_that_is_named(here: Path, tmp_path: Path) -> None:
    (here / "configs" / "model" / "mine.yaml").write_text("lr: 1\n", encoding="utf-8")
    assert completed(tmp_path, f"proj config --project {here} model=mi", 4) == ["model=mine"]
    assert completed(tmp_path, "proj config model=mi", 2) == []
    assert completed(tmp_path, "proj config --project /none model=mi", 4) == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_itself_completes(here: Path) -> None:
    """Readline cuts the line at "=", and replaces only the last of its words."""
    script = """
        PATH=$1:$PATH; source <(_PROJ_COMPLETE=source_bash proj)
        COMP_WORDS=(proj train task = tr); COMP_CWORD=4
        $(complete -p proj | sed 's/.*-F \\([^ ]*\\) .*/\\1/') proj
        echo "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "-c", script, "-", PROJ.parent], cwd=here, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["trashnet"]


# Speed


HELLO = """
import typer
app = typer.Typer({})
@app.command()
def hello(name: str = "you") -> None:
    "Say hello."
    print("hello", name)
app()
"""


def seconds_of(*command: str | Path, cwd: Path) -> float:
    start = time.monotonic()
    subprocess.run(command, cwd=cwd, stdout=subprocess.DEVNULL, check=True, timeout=60)
    return time.monotonic() - start


@pytest.mark.slow
@pytest.mark.parametrize("command", [[], *COMMANDS], ids=lambda c: " ".join(c) or "proj")
def test_help_takes_at_most_two_and_a_half_times_a_typer_hello(here: Path, command: list[str]) -> None:
    hello = here / "hello.py"
    hello.write_text(HELLO.format("rich_markup_mode=None, pretty_exceptions_enable=False"), encoding="utf-8")
    ours, theirs = [], []
    for _ in range(7):  # side by side, so that a busy machine slows both
        ours.append(seconds_of(PROJ, *command, "--help", cwd=here))
        theirs.append(seconds_of(sys.executable, hello, "--help", cwd=here))
    assert statistics.median(ours) <= 2.5 * statistics.median(theirs)


@pytest.mark.slow
def test_config_takes_less_than_a_second_of_a_core(here: Path) -> None:
    """Time on a core, which a busy machine hardly changes; `bench/startup.py` has the time on the clock."""
    took = []
    for _ in range(3):
        before = os.times()
        seconds_of(PROJ, "config", cwd=here)
        after = os.times()
        took.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(took) < 1.0


def test_nothing_is_written_by_looking(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(here)
    for words in (["config"], ["--help"], ["train", "--help"]):
        call(capsys, *words)
    assert contents(here) == before


def test_serves_help_lists_every_setting() -> None:
    from proj.serve.settings import Settings

    said = proj("serve", "--help", cwd=ROOT).stdout
    words = set(re.findall(r"[a-z_]+", said.replace("--allow-host", "allow_host")))
    assert set(Settings.model_fields) <= words
