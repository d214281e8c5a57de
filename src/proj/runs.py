"""Run directories: how one is made, and what it says of itself.

models/<task>/<run>/
  run.json          `Record`: status, overrides, seeds, versions, data hash, times
  config.yaml       the resolved config
  git.diff          what the working tree had that its commit has not (secrets masked, size-capped)
  train.log         the run's log, rotated
  metrics.csv       one row an epoch: epoch, train_loss, val_loss, val_accuracy, lr, ...
  metrics.json      {"task", "run", "split", "metrics", "per_class", "confusion", "names"}
  predictions.npz   test split: index (N,) into the prepared arrays, y (N,), prob (N, K), id (N,)
  checkpoints/      best.ckpt, last.ckpt
  bundle/           model.onnx, bundle.json
  report.html
  lock              held while a process works on the run
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from proj.errors import CheckFailed, ResourceError, RunNotFound, UsageError

STATUSES = ("running", "finished", "failed")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")  # not "..", no other folder, no option; @ is for versions


@dataclass(kw_only=True)
class Record:
    """The content of run.json. Times are ISO 8601 in UTC; `seconds` has the duration of each stage."""

    task: str
    run: str
    status: str = "running"
    fast: bool = False
    sample: bool = False
    trial: bool = False
    folds: int = 0
    seed: int = 0
    overrides: list[str] = field(default_factory=list)
    prepared: str = ""
    data_hash: str = ""
    source: str = ""
    device: str = ""
    started: str = ""
    ended: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    git: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    error: str = ""


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def create(models: Path, record: Record, *, name: str = "", replace: bool = False) -> Path:
    """Make a new run directory for `record.task` and write its run.json; sets `record.run` and `record.started`.

    Without a `name` it is called after the time. Raises UsageError when the name is taken and `replace` is false.
    """
    check_name(models / record.task, name, replace=replace)
    record.run = name or f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    record.started = now()
    folder = models / record.task / record.run
    try:
        if folder.exists():
            with lock(folder):
                shutil.rmtree(folder)
        (folder / "checkpoints").mkdir(parents=True)
    except OSError as e:
        raise ResourceError(
            f"no run directory can be made under {models}",
            found=e.strerror or str(e),
            next="free or choose a folder",
        ) from None
    write(folder, record)
    return folder


def check_name(folder: Path, name: str, *, replace: bool) -> None:
    """Raise UsageError when `name` cannot name a run under `folder` (models/<task>), or is taken. "" is free."""
    if name and not NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot name a run", next="use up to 100 letters, digits, ., - and _")
    if name and (folder / name).exists() and not replace:
        raise UsageError(f"{folder / name} exists", next="choose another --name, or add --replace")


def write(folder: Path, record: Record) -> None:
    write_json(folder / "run.json", asdict(record))


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically: the file is either the old one or the new one, whole."""
    tmp = path.with_name(path.name + ".tmp")
    tmp.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(tmp, path)


def read_json(path: Path, default: Any) -> Any:
    """What `write_json` wrote, or `default` where there is no such file. Raises CheckFailed when it is broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return default
    except (OSError, ValueError) as e:
        raise CheckFailed(f"{path} cannot be read", found=str(e), next="delete it; `proj evaluate RUN`") from None


def read(folder: Path) -> Record:
    """Read run.json. Raises RunNotFound when there is none or it is not a run's."""
    try:
        raw = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        known = {f.name: str(f.type).partition("[")[0] for f in fields(Record)}
        record = Record(**{k: v for k, v in raw.items() if k in known})
        for key, kind in known.items():
            if type(value := getattr(record, key)).__name__ != kind:
                raise TypeError(f"{key} is {value!r}")
        if record.status not in STATUSES:
            raise ValueError(f"status is {record.status!r}")
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as e:
        raise RunNotFound(
            f"{folder} is not a run directory", found=f"run.json: {e}", next="`proj train` makes one"
        ) from None
    if record.status == "running" and not _locked(folder):
        record.status = "failed"  # its process is gone: killed, or the machine went down
    return record


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the run. Raises ResourceError when another process does."""
    from filelock import FileLock, Timeout

    guard = FileLock(folder / "lock")
    try:
        guard.acquire(timeout=0)
    except Timeout:
        raise ResourceError(f"{folder} is in use by another process", next="wait until it ends") from None
    try:
        yield
    finally:
        guard.release()


def _locked(folder: Path) -> bool:
    from filelock import FileLock, Timeout

    if not (folder / "lock").exists():
        return False
    guard = FileLock(folder / "lock")
    try:
        guard.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # a read-only volume: nobody trains on it
        return False
    guard.release()
    return False


def every(models: Path, task: str | None = None) -> list[tuple[Path, Record]]:
    """All runs, newest first."""
    found = []
    for path in models.glob(f"{task or '*'}/*/run.json"):
        try:
            found.append((path.parent, read(path.parent)))
        except RunNotFound:
            continue
    return sorted(found, key=lambda pair: (pair[1].started, pair[1].run), reverse=True)


def newest(models: Path, task: str) -> tuple[Path, Record] | None:
    """The run that a task's name means, of the finished ones that have a bundle; None where there is none.

    It leaves alone the locks of runs that are under way, so that it may be asked again and again.
    """
    there = []
    for path in (models / task).glob("*/bundle/bundle.json"):
        folder = path.parent.parent
        with suppress(RunNotFound, OSError):
            if '"finished"' in (folder / "run.json").read_text(encoding="utf-8"):
                there.append((folder, read(folder)))
    there.sort(key=lambda pair: (pair[1].started, pair[1].run), reverse=True)
    return next(iter(best([pair for pair in there if pair[1].status == "finished"])), None)


def best(newest_first: list[tuple[Path, Record]]) -> list[tuple[Path, Record]]:
    """Those that a task's name may mean: eligible ones, else finished ones, else any."""
    finished = [pair for pair in newest_first if pair[1].status == "finished"]
    return [pair for pair in finished if eligible(pair[1])] or finished or newest_first


def eligible(record: Record) -> bool:
    """May this run be picked when nobody named it? Finished, on real data, neither --fast nor a trial nor folds."""
    return record.status == "finished" and not (record.fast or record.sample or record.trial or record.folds)


def free_bytes(folder: Path) -> int:
    """Bytes free on the file system that `folder` is, or will be, on."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
