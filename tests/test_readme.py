"""The README: each recipe runs as it is written, and its tree is what is on the disk."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?:<!-- test: (\w+) -->\n)?```sh\n(.*?)```", re.DOTALL)


def blocks(mark: str) -> list[str]:
    """Command lines of the blocks that carry `mark` ("": those that run anywhere)."""
    return [line for m, body in BLOCK.findall(TEXT) if m == mark for line in body.strip().splitlines()]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of its own, so that no test touches the checkout's runs."""
    root = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "configs", root / "configs")
    shutil.copytree(ROOT / "tests/pictures", root / "tests/pictures")
    (root / "pyproject.toml").write_text("[tool.proj]\n")
    return root


def run(command: str, cwd: Path, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    words = shlex.split(command)
    assert words[0] == "proj"
    return subprocess.run(
        [sys.executable, "-m", "proj", *words[1:]],
        cwd=cwd,
        text=True,
        capture_output=True,
        timeout=timeout_s,
        env={**os.environ, "WANDB_MODE": "offline"},
    )


@pytest.mark.slow
def test_the_recipes_run_as_written(project: Path) -> None:
    """All of them in order, after the first command has trained the digits as a newcomer would."""
    commands = ["proj train trainer.max_epochs=2", *(c for c in blocks("") if c.startswith("proj "))]
    assert len(commands) > 8
    for command in commands:
        done = run(command, project)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def test_the_two_commands_are_the_readmes_first() -> None:
    assert blocks("")[:2] == ["pip install uv && uv run proj train", "uv run pytest"]


@pytest.mark.slow
@pytest.mark.real_data
def test_the_recipes_on_real_data_run_as_written(project: Path, real_data: Path) -> None:
    weights = real_data / "pretrained/mobilenetv2_100_in1k_from_coral_qat.safetensors"
    for command in blocks("real_data"):
        for word, path in (
            ("PHOTOS", real_data / "trashnet"),
            ("WEIGHTS.safetensors", weights),
            ("ARTICLES.csv", real_data / "fakenews/isot_articles_small.csv"),
            ("POSTS.csv", real_data / "fakenews/covid_posts.csv"),
        ):
            command = command.replace(word, str(path))
        # Two epochs: the features of the backbone, which take the time, are the same.
        extra = " trainer.max_epochs=2" if " train " in command else ""
        done = run(command + extra, project, timeout_s=900)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
def test_inputs_of_each_kind_are_answered_as_written(project: Path, tmp_path: Path) -> None:
    """With models of one batch of synthetic rows, which answer when they are named."""
    for task, words in {
        "fakenews": "model=linear",
        "robot": "",
        "nutrition": "model=small task.views=2 model.backbone=test_resnet task.height_px=32 task.width_px=32",
    }.items():
        done = run(f"proj train task={task} data.source=sample {words} --fast --name asked", project)
        assert done.returncode == 0, done.stderr
    _write_inputs(tmp_path)
    commands = blocks("inputs")
    assert len(commands) == 3
    for command in commands:
        task = command.split()[-1]
        said = run(f"{command.removesuffix(task)}{project}/models/{task}/asked", tmp_path)
        assert said.returncode == 0, f"{command}\n{said.stdout}\n{said.stderr}"


def _write_inputs(folder: Path) -> None:
    (folder / "article.txt").write_text("Parliament met on Monday.\n")
    (folder / "articles.csv").write_text("title,text\nA,Parliament met\nB,You will not believe it\n")
    window = np.arange(90, dtype=np.float32).reshape(15, 6)
    np.savetxt(folder / "window.csv", window, delimiter=",", header="Fx,Fy,Fz,Tx,Ty,Tz", comments="")
    np.save(folder / "windows.npy", np.stack([window, -window]))
    for name in ("side", "top"):
        Image.new("RGB", (40, 30), "white").save(folder / f"{name}.jpg")


def tree() -> list[str]:
    """Paths that the README's map names."""
    lines = re.search(r"```text\n(.*?)```", TEXT, re.DOTALL)
    assert lines
    paths, parents = [], [""]
    for line in lines[1].splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        names = re.split(r"\s{2,}", line.strip())[0].split(", ")
        parents[depth + 1 :] = [parents[depth] + names[0]]
        paths += [parents[depth] + n for n in names]
    return paths


def test_the_map_names_what_is_there() -> None:
    missing = [p for p in tree() if not (ROOT / p).exists()]
    assert missing == []


def test_the_map_leaves_nothing_of_the_package_out() -> None:
    named = set(tree())
    for folder in ("src/proj", "configs"):
        there = {
            f"{folder}/{p.name}{'/' * p.is_dir()}"
            for p in (ROOT / folder).iterdir()
            if not p.name.startswith("__") and (p.is_dir() or p.suffix in {".py", ".yaml"})
        }
        assert there - named == set()


def test_the_servers_map_leaves_nothing_of_it_out() -> None:
    page = (ROOT / "docs/serving.md").read_text(encoding="utf-8").partition("## The code")[2]
    there = {p.stem for p in (ROOT / "src/proj/serve").glob("*.py")} - {"__init__"}
    assert there - set(re.findall(r"`(\w+)`", page)) == set()


def test_every_link_to_a_file_leads_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_table_of_tasks_says_what_each_asks() -> None:
    """A task that a team adds need not stand there: nothing else is edited for one."""
    from proj import task

    said = dict(re.findall(r"^\| `(\w+)` \| ([^|]*\?) \|", TEXT, re.MULTILINE))
    assert said == {name: task.get(name).question for name in said}
    own = {"digits", "quickdraw", "trashnet", "nutrition", "fakenews", "wheel", "robot"}
    assert own & set(task.available()) <= set(said)
