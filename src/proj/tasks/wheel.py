"""Wheel assembly: was the wheel put on correctly? Forces, torques and positions from a robot cell.

The lab's recordings are not public. What is read:

    FOLDER/labels.csv       file,assembly,label       one line an assembly; label: correct or incorrect (1 or 0)
    FOLDER/**/NAME.csv      assembly,force_x,...      one line a time step; a column says which assembly it is of

Names of the label file, of the identifying column and of the channels are options. Where each file is one assembly,
`task.identifier=""`, and labels.csv has file,label. `,`, `;` or tab separate the columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, cast

import numpy as np
from loguru import logger

from proj import task
from proj.errors import ConfigError, DataError, InputError
from proj.preprocess.series import Window, table
from proj.preprocess.spec import SeriesSpec
from proj.task import Row, Task

NAMES = ("correct", "incorrect")
WORDS = {"correct": 0, "ok": 0, "1": 0, "true": 0, "incorrect": 1, "nok": 1, "0": 1, "false": 1}
CHANNELS = (
    "force_x", "force_y", "force_z", "torque_x", "torque_y", "torque_z", "position_z", "position_angle",
)  # fmt: skip
LAYOUT = "expected {labels} (file,{identifier}label) beside the recordings, *.csv with one line a time step"

Key = tuple[str, str]  # a recording: the file's name without its suffix, and the assembly's


@dataclass(kw_only=True)
class Options(task.Options):
    """`channels`: columns that the model sees, in this order. `identifier`: the column that tells assemblies apart.

    `steps`: of a window; `stride`: from one window's start to the next, inside one assembly. `normalise`: by the
    "training" split's statistics, or each "window" by its own, where forces drift from day to day.
    """

    channels: list[str] = field(default_factory=lambda: list(CHANNELS))
    identifier: str = "assembly"
    labels: str = "labels.csv"
    steps: int = 10
    stride: int = 5
    normalise: str = "training"

    def __post_init__(self) -> None:
        if not self.channels or "" in self.channels or len(set(self.channels)) < len(self.channels):
            raise ConfigError("task.channels is empty, or names one twice", found=", ".join(self.channels))
        if self.identifier in self.channels:
            raise ConfigError(f"task.identifier={self.identifier} is a channel too", next="take it out of one of them")
        if self.steps < 2:
            raise ConfigError(f"task.steps is {self.steps}", next="it must be 2 or more")
        if self.stride < 1:
            raise ConfigError(f"task.stride is {self.stride}", next="it must be 1 or more")
        if self.normalise not in {"training", "window"}:
            raise ConfigError(f"task.normalise is {self.normalise!r}", next="it must be training or window")
        if Path(self.labels).name != self.labels or not self.labels:
            raise ConfigError(f"task.labels is {self.labels!r}", next="it must be a file's name, such as labels.csv")


def read(source: Path, options: Options) -> Iterator[Row]:
    """Windows of all labelled assemblies; those of one assembly share a group.

    What has no label, or fewer steps than a window, is left out with a warning. A window with an empty cell is
    read, for prepare to count it as broken.
    """
    labels_file = _find_labels(source, options)
    labels = _labels(labels_file, options)
    unlabelled, short, used = list[str](), list[str](), set[Key]()
    for path in _recordings(labels_file, options):
        inside = path.relative_to(labels_file.parent).with_suffix("").as_posix()
        for assembly, x in _assemblies(path, options):
            known = next((k for k in ((inside, assembly), (path.stem, assembly), ("", assembly)) if k in labels), None)
            if known is None or len(x) < options.steps:
                (short if known else unlabelled).append(f"{inside} {assembly}".strip())
                continue
            used.add(known)
            group = f"{inside} {assembly}".strip()
            for start, window in windows(x, options):
                yield Row(id=f"{group} {start}", group=group, x=window, y=NAMES[labels[known]])
    for found, why in ((unlabelled, "without a label"), (short, f"with fewer than {options.steps} steps")):
        if found:
            logger.warning("left out {} assemblies {}, such as {}", len(found), why, found[0])
    if not used:
        raise DataError(
            f"no assembly under {labels_file.parent} has a label and {options.steps} steps",
            found=f"{len(labels)} labels, such as {' '.join(next(iter(labels))).strip()}; "
            f"{len(unlabelled)} assemblies without one, {len(short)} too short"
            + (f", such as {(unlabelled or short)[0]}" if unlabelled or short else ""),
        )


def windows(x: Window, options: Options) -> Iterator[tuple[int, Window]]:
    """First step and float32 (steps, channels) of each whole window in `x` (n, channels)."""
    for start in range(0, len(x) - options.steps + 1, options.stride):
        yield start, x[start : start + options.steps]


def _find_labels(source: Path, options: Options) -> Path:
    found = [p for p in _files(source) if p.name == options.labels] if source.is_dir() else []
    if not found:
        layout = LAYOUT.format(labels=options.labels, identifier=options.identifier + "," * bool(options.identifier))
        raise DataError(f"no {options.labels} under {source}", found=layout, next="another name: task.labels=NAME.csv")
    return min(found, key=lambda p: (len(p.parts), p))


def _files(folder: Path) -> list[Path]:
    inside = (p for p in folder.rglob("*") if p.suffix.lower() == ".csv" and p.is_file())
    return sorted(p for p in inside if not any(part.startswith(".") for part in p.relative_to(folder).parts))


def _recordings(labels_file: Path, options: Options) -> list[Path]:
    found = [p for p in _files(labels_file.parent) if p.name != options.labels]
    if not found:
        raise DataError(f"no recordings beside {labels_file}", found="expected *.csv with one line a time step")
    return found


def _columns(path: Path, wanted: list[str], option: str) -> list[list[str]]:
    """Cells of the columns `wanted`, a row each line after the header. `option` is what chooses them."""
    try:
        rows = table(path.read_text(encoding="utf-8-sig"))
    except (InputError, UnicodeDecodeError) as e:
        raise DataError(f"{path} cannot be read", found=str(e)) from None
    head = rows[0] if rows else []
    missing = [name for name in wanted if name not in head]
    if missing:
        close = get_close_matches(missing[0], head, n=1)
        raise DataError(
            f"{path} has no column {missing[0]!r}",
            found=f"it has {', '.join(head[:20])}" if head else "it is empty",
            next=f"did you mean {close[0]!r}? {option}" if close else option,
        )
    at = [head.index(name) for name in wanted]
    for n, row in enumerate(rows, 1):
        if len(row) != len(head):
            raise DataError(f"{path} has {len(row)} columns in row {n}", found=f"its header has {len(head)}")
    return [[row[i] for i in at] for row in rows[1:]]


def _labels(path: Path, options: Options) -> dict[Key, int]:
    """Index in NAMES of each recording. A file's name is without its suffix; "" where the table names none."""
    head = path.read_text(encoding="utf-8-sig", errors="replace").partition("\n")[0]
    has_file = "file" in {c for row in table(head) for c in row} or not options.identifier
    wanted = ["file"] * has_file + [options.identifier] * bool(options.identifier) + ["label"]
    labels: dict[Key, int] = {}
    for row in _columns(path, wanted, "choose with task.identifier=COLUMN"):
        key = (row[0].removesuffix(".csv") if has_file else "", row[-2] if options.identifier else "")
        if row[-1].lower() not in WORDS:
            raise DataError(f"{path} has the label {row[-1]!r}", found="a label is correct or incorrect, or 1 or 0")
        if labels.setdefault(key, WORDS[row[-1].lower()]) != WORDS[row[-1].lower()]:
            raise DataError(f"{path} calls {' '.join(key).strip()} both correct and incorrect")
    if not labels:
        raise DataError(f"{path} has no label", found="only a header")
    return labels


def _assemblies(path: Path, options: Options) -> Iterator[tuple[str, Window]]:
    """Identifier and float32 (n, channels) of each assembly in a file, in the order that they begin."""
    own = [options.identifier] * bool(options.identifier)
    advice = "choose with task.identifier=COLUMN, or task.identifier='' where a file is one assembly; "
    rows = _columns(path, own + options.channels, advice * bool(own) + "task.channels=[...] names the channels")
    found: dict[str, list[list[float]]] = {}
    for n, row in enumerate(rows, 2):
        try:
            numbers = [float(cell) if cell else np.nan for cell in row[len(own) :]]
        except ValueError as e:
            raise DataError(f"{path} has what is no number in row {n}", found=str(e)) from None
        found.setdefault(row[0] if own else "", []).append(numbers)
    for assembly, numbers_of in found.items():
        yield assembly, np.array(numbers_of, np.float32)


def sample(n: int, options: Options) -> list[Row]:
    """Synthetic: `n` windows, four of each recording; a wheel that jams pushes back harder, and unsteadily."""
    rng = np.random.default_rng(0)
    length, rows = options.steps + 3 * options.stride, list[Row]()
    t = np.linspace(0, 1, length)[:, None]
    direction = rng.normal(0, 1, len(options.channels))
    for i in range(-(-n // 4)):
        y = i % 2
        push = 10 * t**2 * direction * rng.normal(1 + y, 0.2)
        x = push + rng.normal(0, 0.5 + 2 * y * t, (length, len(options.channels)))
        group = f"sample {i}"
        for start, window in windows(x.astype(np.float32), options):
            rows.append(Row(id=f"{group} {start}", group=group, x=window, y=NAMES[y]))
    return rows[:n]


TASK = Task(
    name="wheel",
    title="Wheel assembly",
    question="Was the wheel put on correctly?",
    modality="series",
    kind="classes",
    options=Options,
    default_source="",  # the lab's recordings are not public
    read=read,
    sample=sample,
    spec=lambda o: SeriesSpec(
        steps=o.steps,
        channels=tuple(o.channels),
        normalise=cast(Literal["training", "window"], o.normalise),
    ),
    names=lambda _: NAMES,
    metric="balanced_accuracy",
    source_help="the lab's recordings are not public; `data.source=sample` tries everything on synthetic ones, "
    "data.source=FOLDER takes your own: labels.csv (file,assembly,label) beside *.csv with a line a time step",
)
