"""UCI Robot Execution Failures: what a robot's wrist felt after something went wrong (Lopes & Camarinha-Matos, 1998).

Five problems label parts of the same recordings in five ways, so they are never joined: `task.problem` chooses one.
Forces and torques are whole numbers; the data set's description gives no units.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from proj import task
from proj.errors import ConfigError, DataError
from proj.preprocess.series import Window
from proj.preprocess.spec import SeriesSpec
from proj.task import Row, Task

PROBLEMS = ("lp1", "lp2", "lp3", "lp4", "lp5")
CHANNELS = ("Fx", "Fy", "Fz", "Tx", "Ty", "Tz")
STEPS = 15  # in 315 ms, from the moment that a failure is noticed
COLUMNS = [f"{channel}_{step:02d}" for step in range(STEPS) for channel in CHANNELS]
SYNTHETIC = ("collision", "normal", "obstruction")


@dataclass(kw_only=True)
class Options(task.Options):
    """`problem`: lp1 approach to grasp, lp2 transfer, lp3 part after transfer, lp4 approach to ungrasp, lp5 motion."""

    problem: str = "lp1"

    def __post_init__(self) -> None:
        if self.problem not in PROBLEMS:
            raise ConfigError(f"task.problem is {self.problem!r}", next=f"it must be one of {', '.join(PROBLEMS)}")


def read(source: Path, options: Options) -> Iterator[Row]:
    """Rows of one problem. Equal recordings share a group, also where they carry different labels."""
    path = _file(source, options.problem)
    rows = _csv(path, options.problem) if path.suffix.lower() == ".csv" else _data(path)
    for instance, label, x in rows:
        same = hashlib.blake2b(x.tobytes(), digest_size=8).hexdigest()
        yield Row(id=f"{options.problem} {instance}", group=same, x=x, y=label)


def _file(source: Path, problem: str) -> Path:
    if source.is_file():
        return source
    for suffix in (".data", ".csv"):
        for path in sorted(source.rglob("*")):
            if path.name.lower() == problem + suffix and path.is_file():
                return path
    raise DataError(f"no recordings of {problem} under {source}", found=f"expected {problem}.data or {problem}.csv")


def _data(path: Path) -> Iterator[tuple[str, str, Window]]:
    """The archive's own form: a label, 15 lines of 6 numbers, a blank line; a count may stand before the first."""
    words = path.read_text(encoding="utf-8", errors="replace").split()
    words = words[1:] if words and words[0].isdigit() else words
    size = 1 + len(COLUMNS)
    for start in range(0, len(words), size):
        label, *numbers = words[start : start + size]
        yield str(start // size), label, _window(numbers, path, f"recording {start // size}, {label!r},")


def _csv(path: Path, problem: str) -> Iterator[tuple[str, str, Window]]:
    """One recording a line: lp, instance, label, Fx_00, Fy_00 .. Tz_14."""
    with path.open(newline="", encoding="utf-8", errors="replace") as f:
        lines = csv.DictReader(f)
        missing = {"lp", "instance", "label", *COLUMNS}.difference(lines.fieldnames or [])
        if missing:
            raise DataError(f"{path} lacks the column {min(missing)}", found="expected lp,instance,label,Fx_00,Fy_00..")
        found = set()
        for line in lines:
            found.add(line["lp"])
            if line["lp"] == problem:
                numbers = [line[c] or "" for c in COLUMNS]
                yield line["instance"], line["label"], _window(numbers, path, f"line {lines.line_num}")
    if problem not in found:
        raise DataError(f"{path} has no recording of {problem}", found=f"it has {', '.join(sorted(map(str, found)))}")


def _window(numbers: list[str], path: Path, where: str) -> Window:
    try:
        x = np.array(numbers, np.float32).reshape(STEPS, len(CHANNELS))
    except ValueError:
        raise DataError(
            f"{path} cannot be read", found=f"{where} is not {STEPS} x {len(CHANNELS)} numbers after a label"
        ) from None
    return x


def sample(n: int, options: Options) -> list[Row]:
    """Synthetic: `n` recordings; a rest with some noise, a short blow, or a force that grows and stays."""
    rng = np.random.default_rng(PROBLEMS.index(options.problem))
    t = np.arange(STEPS)[:, None]
    rows = []
    for i in range(n):
        label = SYNTHETIC[i % len(SYNTHETIC)]
        size = rng.normal(0, 60, len(CHANNELS))
        shape = {"normal": 0 * t, "collision": np.exp(-((t - rng.uniform(2, 12)) ** 2) / 4), "obstruction": t / STEPS}
        x = shape[label] * size * (5 if label == "obstruction" else 1) + rng.normal(0, 2, (STEPS, len(CHANNELS)))
        rows.append(Row(id=f"sample {i}", group=f"sample {i}", x=x.round().astype(np.float32), y=label))
    return rows


TASK = Task(
    name="robot",
    title="Robot execution failures",
    question="What happened to the gripper?",
    modality="series",
    kind="classes",
    options=Options,
    default_source="https://archive.ics.uci.edu/static/public/138/robot+execution+failures.zip",
    read=read,
    sample=sample,
    spec=lambda _: SeriesSpec(steps=STEPS, channels=CHANNELS),
    names=lambda _: (),  # each problem has its own: those of its rows
    metric="balanced_accuracy",
    source_help="get the archive from the data set's page, archive.ics.uci.edu/dataset/138, "
    "and give it as data.source=FILE.zip, or a folder with lp1.data .. lp5.data",
)
