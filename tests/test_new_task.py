"""docs/new-task.md: the files that it shows are those of the repository, and its commands run as written."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from made_projects import ROOT

from proj import task
from proj.fetch.source import scheme
from proj.preprocess.spec import SeriesSpec

TEXT = (ROOT / "docs/new-task.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [line for body in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in body.strip().splitlines()]


def test_the_files_shown_are_the_files_there_are() -> None:
    names = [name for name, _ in SHOWN]
    assert names == ["src/proj/tasks/robot.py", "configs/task/robot.yaml", "configs/recipe/robot-small.yaml"]
    for name, content in SHOWN:
        assert content == (ROOT / name).read_text(encoding="utf-8"), f"{name} has changed: show it anew"


def test_every_path_that_is_named_exists() -> None:
    paths = re.findall(r"`((?:src|configs|tests|bench|docs)/[\w./-]+)", TEXT)
    assert len(paths) >= 5
    for path in paths:
        assert (ROOT / path).exists(), path


def test_the_table_says_what_the_task_is() -> None:
    robot = task.get("robot")
    spec = robot.spec(robot.options())
    assert isinstance(spec, SeriesSpec)
    assert f"`{robot.modality}`: {spec.steps} steps of {len(spec.channels)} channels" in TEXT
    assert f"`{robot.metric}`: some failures are rare" in TEXT


def test_the_sources_it_lists_are_known() -> None:
    addresses = re.findall(r"`(https?://[^`]*|gs://[^`]+|hf://[^`]+|kaggle://[^`]+|package:[^`]+)`", TEXT)
    assert len(addresses) >= 4
    for address in addresses:
        assert scheme(address if address != "https://" else "https://HOST/FILE")


@pytest.mark.slow
def test_its_commands_run_as_written(tmp_path: Path) -> None:
    commands = [c for c in COMMANDS if c.startswith("proj ")]
    assert len(commands) >= 2
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-m", "proj", *shlex.split(command)[1:]],
            cwd=tmp_path, capture_output=True, text=True, timeout=300, env=os.environ | {"NO_COLOR": "1"},
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stderr}"


def test_its_contract_test_serves_an_answer() -> None:
    """A test that is marked slow is left out without a word, and the command would show nothing."""
    (command,) = [c for c in COMMANDS if c.startswith("pytest ")]
    path, chosen = re.fullmatch(r"pytest (\S+) -k (\w+)", command).groups()  # type: ignore[union-attr]
    contract = runpy.run_path(str(ROOT / path))  # by its path: `python -m pytest` takes tasks.py for `tasks`
    (by_task,) = contract["test_from_sample_rows_to_a_served_answer"].pytestmark
    assert chosen in [p.values[0] for p in by_task.args[1] if not p.marks]
