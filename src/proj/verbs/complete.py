"""Shell completion of override keys and of the choices of config groups; imports no Hydra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from proj import config, task
from proj.errors import ProjError
from proj.project import find_project


def words(typed: list[str], incomplete: str, root: str | Path | None, *, data: bool) -> list[str]:
    """What can stand in `incomplete`'s place after the overrides `typed`; nothing where there is no project.

    `root`: what --project said. `data`: the verb is `proj data`, which has commands of its own.
    """
    # bash cuts words at "=": task=tr arrives as the words "task", "=", "tr", and only the last one is replaced.
    before = " ".join(typed).replace(" =", "=").replace("= ", "=").split()
    try:
        groups = config.groups(find_project(Path(root) if root else None).configs)
        # Right after the sign the shell gives an empty word, and the group's name stands alone before it.
        cut = bool(before) and (before[-1].endswith("=") or (not incomplete and before[-1] in groups))
        word = f"{before.pop().removesuffix('=')}={incomplete}" if cut else incomplete
        key, equals, value = word.partition("=")
        if equals:
            return [c if cut else f"{key}={c}" for c in groups.get(key, []) if c.startswith(value)]
        known = [f"{g}=" for g in groups] + [f"{k}=" for k in config.keys(_options(before)) if k != "task.name"]
    except (ProjError, OSError):
        return []
    first = ["check", "cache"] if data and not before else []
    return [w for w in first + known if w.startswith(word)]


def _options(typed: list[str]) -> Any:
    """The Options of the task that the words choose."""
    names = [w.removeprefix("task=") for w in typed if w.startswith("task=")]
    return task.get(names[-1]).options if names else task.Options
