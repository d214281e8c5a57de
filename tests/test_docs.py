"""What the documentation shows as a `proj` command is one: its verb, options, overrides and settings are there.

Nothing is executed here; tests/test_readme.py and tests/test_new_task.py run what they can.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from commands import ROOT
from pydantic import ValidationError
from typer._click.exceptions import UsageError as ClickError

from proj import cli, compose, config, task
from proj.errors import ProjError, UsageError
from proj.serve import settings
from proj.verbs import resume, serve
from proj.verbs.job import options_of

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^    .*$", re.MULTILINE)
INLINE = re.compile(r"`(proj [^`]+)`")
COMMAND = re.compile(r"(?:\w+=\S* )*(?:uv run )?proj\b(.*)")
CHOICE = re.compile(rf"({'|'.join(config.groups(ROOT / 'configs'))})=([A-Z]+|\.\.\.)|\[.*")  # left to the reader


def commands(text: str) -> list[list[str]]:
    """The words after `proj`: of lines in blocks of sh or text and in indented ones, and of code within a sentence."""
    blocks = [body for language, body in FENCED.findall(text) if language in {"sh", "text"}]
    prose = FENCED.sub("", text)
    blocks += [*INDENTED.findall(prose), *(c.replace("\n", " ") for c in INLINE.findall(prose))]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = [COMMAND.fullmatch(part.strip()) for line in lines for part in line.split("&&")]
    return [shlex.split(m[1], comments=True) for m in found if m]


def check(words: list[str]) -> None:
    """Read the words as `proj` does, up to where work would begin. Raises what it would raise."""
    given = _parsed(words)
    overrides = [w for w in given.get("overrides") or [] if not CHOICE.fullmatch(w)]
    if words[0] == "serve":
        told = dict(settings._pair(w) for w in serve.split(given["words"] or [])[1])
        flags = {k: v for k, v in given.items() if k in settings.Settings.model_fields and v is not None}
        settings.Settings.model_validate(flags | told)
    elif words[0] == "evaluate":
        run = given["run"] or ""
        chosen = [f"task={run}"] if run in task.available() else []
        compose.compose([*chosen, *([run] if "=" in run else []), *overrides], ROOT / "configs", options_of)
    elif given.get("resume") not in {None, "auto"}:
        resume._allowed(overrides)
    elif "overrides" in given:
        compose.compose(overrides, ROOT / "configs", options_of)


def _parsed(words: list[str]) -> dict[str, Any]:
    """The parameters of the verb that the words name, as Typer reads them."""
    command: Any = typer.main.get_command(cli.app)
    ctx = command.make_context("proj", list(words))
    while isinstance(command, typer.core.TyperGroup):
        name, command, rest = command.resolve_command(ctx, [*ctx._protected_args, *ctx.args])
        ctx = command.make_context(name, rest, parent=ctx)
    return dict(ctx.params)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_a_command_that_a_page_shows_is_one(page: Path) -> None:
    for words in commands(page.read_text(encoding="utf-8")):
        if words == ["predict"]:  # the verb as such
            continue
        try:
            check(words)
        except (ClickError, ProjError, ValidationError) as e:
            raise AssertionError(f"{page.name} shows `proj {shlex.join(words)}`: {e}") from e


def test_commands_are_found_in_blocks_and_in_sentences() -> None:
    text = (
        "See `proj serve x\nworkers=2`.\n\n    proj data   # a comment\n\n```sh\npip install uv && uv run proj train\n"
        "MODEL=m proj export \\\n  digits\nproject x\n```\n\n```python\nproj data\n```\n"
    )
    found = [["train"], ["export", "digits"], ["data"], ["serve", "x", "workers=2"]]
    assert commands(text) == found
    assert {p.name for p in PAGES if commands(p.read_text(encoding="utf-8"))} >= {"README.md", "training.md"}
    assert len(commands(PAGES[0].read_text(encoding="utf-8"))) > 30


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("trian", ClickError),
        ("data chekc photos", ClickError),
        ("train --fsat", ClickError),
        ("profile --steps many", ClickError),
        ("predict", ClickError),
        ("keys show", ClickError),
        ("train model.lrr=1", ProjError),
        ("train task=trashnet model=smal", ProjError),
        ("train data.sourc=PHOTOS", ProjError),
        ("train model.lr=...", ProjError),
        ("data task=digits task.views=2", ProjError),
        ("config model.lr=-1", ProjError),
        ("evaluate digits task.views=2", ProjError),
        ("evaluate data.sourc=x", ProjError),
        ("train --resume RUN seed=3", UsageError),
        ("serve digits wokers=2", ValidationError),
        ("serve workers=-1", ValidationError),
        ("serve --port 70000", ValidationError),
        ("serve queue_size=9", ValidationError),
    ],
)
def test_a_line_that_is_no_command_is_seen(line: str, error: type[Exception]) -> None:
    (words,) = commands(f"```sh\nproj {line}   # as a page might show it\n```")
    with pytest.raises(error):
        check(words)


@pytest.mark.parametrize(
    "line", ["data task=TASK", "train --resume auto task=...", "serve RUN", "profile [KEY=VALUE]..."]
)
def test_a_choice_that_is_left_to_the_reader_is_no_mistake(line: str) -> None:
    check(line.split())
