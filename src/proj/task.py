"""What a task is, and how it is found.

A task is one module `proj.tasks.NAME` with a module-level `TASK: Task`, and one file `configs/task/NAME.yaml`.
It is found by its module's name alone.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from proj.errors import UsageError

if TYPE_CHECKING:
    from proj.preprocess.spec import Modality, Spec

Kind = Literal["classes", "values"]


@dataclass(kw_only=True)
class Options:
    """A task's own settings, mounted at `task.*`; a task adds its own by inheriting."""

    name: str = ""


X = Path | np.ndarray[Any, np.dtype[Any]] | Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Row:
    """One item of a data set.

    `id` is its name for a reader (a path inside the source, or a row number), unique in the source.
    `group` names what must not be split (a dish, a recording, a block of neighbouring photos).
    `x` is a file; or the input itself: uint8 (H, W) or (H, W, C), float32 (steps, channels), or a text's fields by
    name; or several files or pictures that are views of one thing.
    `y` is a class name, or the values in the order and units of the task's names.
    """

    id: str
    group: str
    x: X | tuple[X, ...]
    y: str | tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Task:
    """Everything that the rest of `proj` knows of a task.

    `default_source` is fetched when `data.source=default`; it is a function where the options decide it. `read` turns
    a fetched folder or file into rows; it raises `DataError` when the folder is not laid out as the task expects.
    `sample` makes `n` synthetic rows (deterministic, a few of each class). `spec` says what an input looks like when it
    reaches the model. `names` is () where the data decide the classes: then they are those of the rows, sorted.
    `units` are those of the names, for values. `metric` is the one that the task is judged by. `offline` says what to
    train where no hub can be reached.
    """

    name: str
    title: str
    question: str
    modality: Modality
    kind: Kind
    options: type[Options]
    default_source: str | Callable[[Any], str]
    read: Callable[[Path, Any], Iterable[Row]]
    sample: Callable[[int, Any], list[Row]]
    spec: Callable[[Any], Spec]
    names: Callable[[Any], tuple[str, ...]]
    metric: str = "accuracy"
    page_input: Literal["photo", "sketch"] = "photo"
    source_help: str = ""
    offline: str = "model=small"
    units: Callable[[Any], tuple[str, ...]] = lambda _: ()

    def source(self, options: Any) -> str:
        """The default source for these options."""
        return self.default_source if isinstance(self.default_source, str) else self.default_source(options)

    def names_of(self, rows: Iterable[Row], options: Any) -> tuple[str, ...]:
        """The names, in the order of the model's outputs."""
        return self.names(options) or tuple(sorted({str(r.y) for r in rows}))


def available() -> list[str]:
    """Names of the tasks that exist, sorted."""
    import proj.tasks

    return sorted(m.name for m in pkgutil.iter_modules(proj.tasks.__path__))


def get(name: str) -> Task:
    """Import `proj.tasks.NAME` and return its `TASK`. An unknown name raises UsageError that lists those there are."""
    if name not in available():
        close = get_close_matches(name, available(), n=1)
        raise UsageError(
            f"no task is called {name!r}",
            found=f"the tasks are {', '.join(available())}",
            next=f"did you mean task={close[0]}?" if close else "add one: docs/new-task.md",
        )
    task = importlib.import_module(f"proj.tasks.{name}").TASK
    assert isinstance(task, Task)
    return task
