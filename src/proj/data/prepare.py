"""Fetch a task's source and turn it into a prepared data set, once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from loguru import logger

from proj import console, runs
from proj.config import Config, to_dict
from proj.data import arrays, statistics, store
from proj.data import split as splits
from proj.errors import DataError, ResourceError
from proj.fetch import get, manifest

if TYPE_CHECKING:
    from proj.task import Row, Task

PREPARE_VERSION = 3  # part of every key: raise it when the same source would give other arrays
SAMPLE_ROWS = 120
FAST_ROWS = 240  # with --fast: evenly spaced over the source


@dataclass(frozen=True)
class Source:
    """What a run reads: a fetched path, or None for the task's synthetic sample."""

    path: Path | None
    name: str
    manifest_hash: str


def prepare(task: Task, cfg: Config, data: Path, *, fast: bool = False, known: Sequence[str] = ()) -> store.Prepared:
    """Fetch if needed, decode if needed, and open. Two processes never build the same key at once.

    `known` are the classes of a trained model, which is to be scored on this source: all rows are then in the test
    split, but for those of other classes, which are counted.

    Raises DataError (nothing usable, too many broken files), ResourceError (disk), Unreachable (source).
    """
    source = locate(task, cfg, data)
    folder = data / "prepared" / task.name / key(task, cfg, source, fast, known)
    if (folder / "meta.json").is_file():
        return store.open_(folder)
    from filelock import FileLock

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{folder.name}.lock"):
            if not (folder / "meta.json").is_file():
                _build(task, cfg, source, folder, fast, known)
    except OSError as e:
        raise ResourceError(
            f"{folder} cannot be written", found=e.strerror or str(e), next="free space, or check rights"
        ) from None
    return store.open_(folder)


def locate(task: Task, cfg: Config, data: Path) -> Source:
    """Fetch the source named by `data.source`, and hash what is there."""
    if cfg.data.source == "sample":
        return Source(None, "sample", "sample")
    got = get.fetch(
        task.source(cfg.task) if cfg.data.source == "default" else cfg.data.source,
        default=task.source(task.options()),
        raw=data / "raw",
        task=task.name,
        sha256=cfg.data.sha256,
        timeout_s=cfg.data.timeout_s,
        help=task.source_help,
    )
    digests = data / "prepared" / task.name / f".digests-{hashlib.sha256(str(got.path).encode()).hexdigest()[:8]}.json"
    return Source(got.path, got.source, manifest.manifest_digest(manifest.manifest(got.path, cache=digests)))


def key(task: Task, cfg: Config, source: Source, fast: bool, known: Sequence[str] = ()) -> str:
    """Twelve hexadecimal digits over all that decides the arrays."""
    d = cfg.data
    decides = {
        "version": PREPARE_VERSION,
        "manifest": source.manifest_hash,
        "task": to_dict(cfg.task),
        "spec": task.spec(cfg.task).to_dict(),
        "split": ["all in the test", *known] if known else [d.split, d.split_seed, d.val_share, d.test_share],
        "fast": fast,
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]


def _build(task: Task, cfg: Config, source: Source, folder: Path, fast: bool, known: Sequence[str]) -> None:
    tmp = folder.with_name(f".tmp-{folder.name}")
    shutil.rmtree(tmp, ignore_errors=True)  # left by a process that was killed; the lock is ours
    tmp.mkdir()
    try:
        found, unknown = _known(rows(task, cfg, source, fast, known), known, source)
        spec = task.spec(cfg.task)
        need = arrays.size_bytes(found, spec)
        if need > runs.free_bytes(folder.parent):
            raise ResourceError(
                f"preparing needs {console.size(need)}",
                found=f"{console.size(runs.free_bytes(folder.parent))} are free",
            )
        kept, skipped = arrays.write(found, spec, tmp, cfg)
        meta = _write(task, cfg, source, kept, tmp, known)
        meta.key, meta.skipped, meta.unknown = folder.name, skipped, unknown
        store.write_meta(tmp, meta)
        os.replace(tmp, folder)
    except BaseException:  # Ctrl-C too: nothing half-written stays
        shutil.rmtree(tmp, ignore_errors=True)
        raise


def rows(task: Task, cfg: Config, source: Source, fast: bool, known: Sequence[str] = ()) -> list[Row]:
    """The rows that a run would use, not decoded. Raises DataError when there are none or a class is unknown."""
    if source.path is None:
        return task.sample(SAMPLE_ROWS, cfg.task)
    found = list(task.read(source.path, cfg.task))
    if not found:
        raise DataError(f"no rows in {source.name}", next=f"`proj data check {source.path}` shows what is there")
    odd = sorted({str(r.y) for r in found} - set(task.names_of(found, cfg.task))) if task.kind == "classes" else []
    if odd and not known:
        raise DataError(f"{source.name} has classes that task {task.name} does not know", found=", ".join(odd[:5]))
    return found[:: max(1, len(found) // FAST_ROWS)][:FAST_ROWS] if fast else found


def _known(rows: list[Row], known: Sequence[str], source: Source) -> tuple[list[Row], dict[str, int]]:
    """The rows of the classes that a model knows, and how many there are of each other class."""
    if not known:
        return rows, {}
    other = Counter(str(r.y) for r in rows if isinstance(r.y, str) and r.y not in known)
    kept = [r for r in rows if not isinstance(r.y, str) or r.y in known]
    if not kept:
        raise DataError(
            f"{source.name} has no row of a class that the model knows",
            found=", ".join(sorted(other)[:5]),
            next=f"its classes are {', '.join(known[:10])}",
        )
    return kept, dict(sorted(other.items()))


def _write(task: Task, cfg: Config, source: Source, rows: list[Row], tmp: Path, known: Sequence[str]) -> store.Meta:
    """Everything but the inputs: targets, groups, splits. Returns what meta.json will say."""
    names = tuple(known) or task.names_of(rows, cfg.task)
    split = _split(cfg, [r.group for r in rows], all_test=bool(known))
    y = _targets(task, rows, names)
    for part, array in (
        ("y", y),
        ("split", split),
        ("group", np.array([r.group for r in rows])),
        ("id", np.array([r.id for r in rows])),
    ):
        np.save(tmp / f"{part}.npy", array)
    x = store.inputs(tmp, task.modality)
    learned = np.flatnonzero(split == (splits.TEST if known else splits.TRAIN))
    mean, std = statistics.channels(x, learned)
    target_mean, target_std = statistics.targets(y, learned)
    meta = store.Meta(
        task=task.name,
        title=task.title,
        question=task.question,
        key="",
        source=source.name,
        sample=source.path is None,
        names=list(names),
        units=list(task.units(cfg.task)),
        modality=task.modality,
        kind=task.kind,
        preprocess=task.spec(cfg.task).to_dict(),
        data_hash=_data_hash(*([x.raw, x.offset] if isinstance(x, store.Texts) else [x]), y, split),
        manifest_hash=source.manifest_hash,
        mean=mean,
        std=std,
        target_mean=target_mean,
        target_std=target_std,
        counts=_counts(task, rows, split, names),
    )
    if not known:
        _warn_of_gaps(meta)
    return meta


def _split(cfg: Config, groups: list[str], *, all_test: bool) -> splits.Split:
    if all_test:
        return np.full(len(groups), splits.TEST, np.uint8)
    d = cfg.data
    make = splits.by_tail if d.split == "tail" else splits.by_hash
    return make(groups, seed=d.split_seed, val_share=d.val_share, test_share=d.test_share)


def _targets(task: Task, rows: list[Row], names: tuple[str, ...]) -> store.Array:
    if task.kind == "values":
        return np.array([r.y for r in rows], np.float32)
    index = {n: i for i, n in enumerate(names)}
    return np.array([index[str(r.y)] for r in rows], np.int64)


def _counts(task: Task, rows: Iterable[Row], split: store.Array, names: tuple[str, ...]) -> dict[str, dict[str, int]]:
    if task.kind == "values":
        return {s: {"rows": int((split == i).sum())} for i, s in enumerate(splits.NAMES)}
    counts = Counter((splits.NAMES[s], str(r.y)) for r, s in zip(rows, split.tolist(), strict=True))
    return {s: {n: counts[s, n] for n in names} for s in splits.NAMES}


def _warn_of_gaps(meta: store.Meta) -> None:
    for s, by_class in meta.counts.items():
        empty = [n for n, c in by_class.items() if not c]
        if empty and meta.kind == "classes":
            logger.warning("no row of {} in the {} split", ", ".join(empty), s)


def _data_hash(*arrays: Any) -> str:
    h = hashlib.sha256()
    for a in arrays:
        h.update(f"{a.dtype}{a.shape}".encode())
        for start in range(0, len(a), 256):
            h.update(np.ascontiguousarray(a[start : start + 256]).tobytes())
    return h.hexdigest()
