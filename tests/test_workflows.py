"""What CI, the git hooks and the task runner say is run here, or at least could be."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yaml"))
PINNED = re.compile(r"^\s*(- )?uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")
LINTERS = ("ruff", "mypy", "lint-imports")
TASKS = ("docker-build", "lint", "serve", "setup", "test", "train", "types")
# `uv run` in a copy of the project uses this environment as it is.
HERE = {"UV_PROJECT_ENVIRONMENT": str(BIN.parent), "UV_NO_SYNC": "1", "UV_OFFLINE": "1"}


def load(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content["on"] = content.pop(True, content.get("on"))  # YAML 1.1 reads `on` as true
    return dict(content)


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def commands() -> list[str]:
    return sorted({step["run"] for path in WORKFLOWS for step in steps(load(path)) if "run" in step})


def sh(*command: str, cwd: Path = ROOT, timeout_s: float = 300, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout_s, env=os.environ | env)


# ---------------------------------------------------------------- workflows


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_workflow_fits_githubs_schema(path: Path) -> None:
    done = sh(str(BIN / "check-jsonschema"), "--builtin-schema", "vendor.github-workflows", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_workflow_may_read_and_nothing_else(path: Path) -> None:
    workflow = load(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert "pull_request_target" not in workflow["on"]
    assert all("permissions" not in job and job["timeout-minutes"] <= 45 for job in workflow["jobs"].values())
    checkouts = [s for s in steps(workflow) if s.get("uses", "").startswith("actions/checkout@")]
    assert all(s["with"]["persist-credentials"] is False for s in checkouts)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_every_action_is_pinned_by_its_commit(path: Path) -> None:
    uses = [line for line in path.read_text(encoding="utf-8").splitlines() if "uses:" in line]
    assert uses
    assert [line for line in uses if not PINNED.match(line)] == []


def test_a_pull_request_is_quick_and_main_is_thorough() -> None:
    workflow = load(ROOT / ".github/workflows/ci.yaml")
    assert set(workflow["on"]) == {"pull_request", "push", "schedule", "workflow_dispatch"}
    jobs = workflow["jobs"]
    assert {name for name, job in jobs.items() if "if" not in job} == {"lint", "test"}
    matrix = jobs["systems"]["strategy"]["matrix"]
    assert [os_name.split("-")[0] for os_name in matrix["os"]] == ["ubuntu", "macos", "windows"]
    assert matrix["python"] == ["3.11", "3.12", "3.13"]


@pytest.mark.parametrize("command", commands())
def test_a_step_is_one_command_that_exists(command: str) -> None:
    assert "\n" not in command
    words = shlex.split(command)
    assert not set(words) & {"&&", "||", ";", "|", ">"}
    _exists(words)


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in commands() if c.split()[2] in LINTERS])
def test_the_linters_steps_pass(command: str) -> None:
    done = sh(*shlex.split(command), UV_NO_SYNC="1")
    assert done.returncode == 0, done.stdout + done.stderr


def _exists(words: list[str]) -> None:
    """A command of uv or docker whose program, verb and files are there; others are unknown here."""
    match words:
        case ["uv", "sync", "--locked"]:
            assert (ROOT / "uv.lock").is_file()
        case ["uv", "run", "pytest", *args]:
            done = sh(sys.executable, "-m", "pytest", *args, "--no-cov", "--markers")
            assert done.returncode == 0, done.stderr
            asked = args[args.index("-m") + 1] if "-m" in args else ""
            assert set(asked.split()) <= set(re.findall(r"^@pytest\.mark\.(\w+)", done.stdout, re.MULTILINE))
        case ["uv", "run", "proj", *args]:
            done = sh(str(BIN / "proj"), *args, "--help")
            assert done.returncode == 0, done.stderr
        case ["uv", "run", tool, *_]:
            assert shutil.which(tool, path=str(BIN)), f"{tool} is not in the environment"
        case ["docker", "build", "-f", dockerfile, *_, "."]:
            assert (ROOT / dockerfile).is_file()
        case ["docker", "run", "--rm", *args]:
            assert {"proj-serve", "proj-train"} & set(args)
        case _:
            raise AssertionError(f"unknown kind of command: {shlex.join(words)}")


# ---------------------------------------------------------------- .ci/run


@pytest.fixture
def ci(tmp_path: Path) -> Path:
    """A project with .ci/run alone; `uv` says what it was asked and fails at what `broken` names."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci/run")
    programs = {
        "uv": 'echo "uv $*"; case $* in "run pytest"*) echo "3 passed";; esac; ! grep -qxF "$*" broken',
        "dpkg-query": "echo installed",
    }
    (tmp_path / "bin").mkdir()
    for name, script in programs.items():
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    (tmp_path / "broken").write_text("")
    return tmp_path


MARKED = "run pytest -m slow or real_data or browser or image -rfEs --durations=25"


@pytest.mark.skipif(sys.platform == "win32", reason=".ci/run is for Debian")
@pytest.mark.parametrize(
    ("broken", "exit_code"),
    [("", 0), ("run ruff check", 1), ("run pytest", 1), (MARKED, 1), ("sync --locked", 1)],
)
def test_ci_run_ends_on_pytests_summary_and_any_failure_counts(ci: Path, broken: str, exit_code: int) -> None:
    (ci / "broken").write_text(broken + "\n" if broken else "")
    done = sh("bash", str(ci / ".ci/run"), cwd=ci, PATH=f"{ci / 'bin'}:{os.environ['PATH']}")
    assert done.returncode == exit_code, done.stdout + done.stderr
    if broken != "sync --locked":  # without packages there is nothing to test
        assert done.stdout.splitlines()[-2:] == [f"uv {MARKED}", "3 passed"]
        assert "uv run mypy" in done.stdout
    if broken in {"run ruff check", "run pytest"}:
        assert f"FAILED: uv {broken}\n" in done.stderr


# ---------------------------------------------------------------- tasks.py


def test_invoke_lists_the_tasks_each_with_its_line() -> None:
    done = sh(str(BIN / "invoke"), "--list")
    assert done.returncode == 0, done.stderr
    listed = dict(re.findall(r"^  ([\w-]+)\s+(\S.*)$", done.stdout, re.MULTILINE))
    assert tuple(sorted(listed)) == TASKS


@pytest.mark.parametrize("name", TASKS)
def test_every_task_runs_commands_that_exist(name: str) -> None:
    done = sh(str(BIN / "invoke"), "--dry", name, NO_COLOR="1")
    assert done.returncode == 0, done.stderr
    said = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in done.stdout.splitlines()]
    assert said
    for command in said:
        _exists(shlex.split(command))


def test_arguments_of_tasks_reach_their_commands() -> None:
    done = sh(
        str(BIN / "invoke"),
        "--dry",
        "train",
        "--overrides",
        "task=trashnet model.lr=1e-3",
        "serve",
        "--run",
        "digits",
    )
    assert "uv run proj train task=trashnet model.lr=1e-3" in done.stdout
    assert "uv run proj serve digits" in done.stdout
    done = sh(str(BIN / "invoke"), "--dry", "test", "--all", "docker-build", "--bundle", "models/a/b/bundle")
    assert "pytest --cov -m ''" in done.stdout
    assert "--build-arg BUNDLE=models/a/b/bundle" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lint", "types"])
def test_cheap_tasks_pass(name: str) -> None:
    done = sh(str(BIN / "invoke"), name, UV_NO_SYNC="1")
    assert done.returncode == 0, done.stdout + done.stderr


# ---------------------------------------------------------------- pre-commit


def test_every_hook_is_local_and_takes_its_tool_from_the_lock() -> None:
    assert sh(str(BIN / "pre-commit"), "validate-config").returncode == 0
    repos = load(ROOT / ".pre-commit-config.yaml")["repos"]
    assert {repo["repo"] for repo in repos} == {"local"}
    for hook in repos[0]["hooks"]:
        words = hook["entry"].split()
        if words != ["uv", "lock", "--check"]:
            assert words[:3] == ["uv", "run", "--locked"]
            assert shutil.which(words[3], path=str(BIN)), f"{words[3]} is not in the environment"


@pytest.mark.slow
def test_hooks_let_good_files_pass_and_stop_bad_ones(tmp_path: Path) -> None:
    for name in (".pre-commit-config.yaml", "pyproject.toml", "uv.lock"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "good.py").write_text('"""Nothing."""\n')
    for command in (
        "git init -q",
        "git config user.email ci@example.org",
        "git config user.name ci",
        "git add -A",
    ):
        assert sh(*command.split(), cwd=tmp_path).returncode == 0
    skip = "lock,mypy,lint-imports,workflows"
    run = (str(BIN / "pre-commit"), "run", "--all-files", "--color=never")
    done = sh(*run, cwd=tmp_path, SKIP=skip, **HERE)
    assert done.returncode == 0, done.stdout + done.stderr

    (tmp_path / "bad.py").write_text("import os\n")
    (tmp_path / "ugly.py").write_text('"""Ugly."""\n\nX = {  "a":1}\n')
    (tmp_path / "key.txt").write_text("-----BEGIN RSA " + "PRIVATE KEY-----\n")
    (tmp_path / "settings.py").write_text('"""Settings."""\n\nTOKEN = "ghp_' + "a1B2c3D4e5F6" * 3 + '"\n')
    (tmp_path / "weights.bin").write_bytes(os.urandom(600_000))
    sh("git", "add", "-A", cwd=tmp_path)
    done = sh(*run, cwd=tmp_path, SKIP=skip, **HERE)
    failed = set(re.findall(r"^- hook id: (\S+)", done.stdout, re.MULTILINE))
    assert failed == {"ruff-check", "ruff-format", "large-files", "secrets"}, done.stdout
