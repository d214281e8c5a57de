"""Fetch a task's source and turn it into a prepared data set, once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger

from proj import console, preprocess, runs
from proj.config import Config, to_dict
from proj.data import split as splits
from proj.data import statistics, store
from proj.errors import DataError, InputError, ResourceError
from proj.fetch import get, manifest
from proj.preprocess import ImageSpec
from proj.task import Row, Task

PREPARE_VERSION = 1  # part of every key: raise it when the same source would give other arrays
SAMPLE_ROWS = 120
FAST_ROWS = 240  # with --fast: evenly spaced over the source


@dataclass(frozen=True)
class Source:
    """What a run reads: a fetched path, or None for the task's synthetic sample."""

    path: Path | None
    name: str
    manifest_hash: str


def prepare(task: Task, cfg: Config, data: Path, *, fast: bool = False) -> store.Prepared:
    """Fetch if needed, decode if needed, and open. Two processes never build the same key at once.

    Raises DataError (nothing usable, too many broken files), ResourceError (disk), Unreachable (source).
    """
    source = locate(task, cfg, data)
    folder = data / "prepared" / task.name / key(task, cfg, source, fast)
    if (folder / "meta.json").is_file():
        return store.open_(folder)
    from filelock import FileLock

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{folder.name}.lock"):
            if not (folder / "meta.json").is_file():
                _build(task, cfg, source, folder, fast)
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


def key(task: Task, cfg: Config, source: Source, fast: bool) -> str:
    """Twelve hexadecimal digits over all that decides the arrays."""
    d = cfg.data
    decides = {
        "version": PREPARE_VERSION,
        "manifest": source.manifest_hash,
        "task": to_dict(cfg.task),
        "spec": task.spec(cfg.task).to_dict(),
        "split": [d.split, d.split_seed, d.val_share, d.test_share],
        "fast": fast,
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]


def _build(task: Task, cfg: Config, source: Source, folder: Path, fast: bool) -> None:
    tmp = folder.with_name(f".tmp-{folder.name}")
    shutil.rmtree(tmp, ignore_errors=True)  # left by a process that was killed; the lock is ours
    tmp.mkdir()
    try:
        found = rows(task, cfg, source, fast)
        spec = task.spec(cfg.task)
        need = len(found) * int(np.prod(spec.shape)) * 1.05
        if need > runs.free_bytes(folder.parent):
            raise ResourceError(
                f"preparing needs {console.size(need)}",
                found=f"{console.size(runs.free_bytes(folder.parent))} are free",
            )
        kept, skipped = _decode(found, spec, tmp, cfg)
        _write(task, cfg, source, kept, skipped, tmp, folder.name)
        os.replace(tmp, folder)
    except BaseException:  # Ctrl-C too: nothing half-written stays
        shutil.rmtree(tmp, ignore_errors=True)
        raise


def rows(task: Task, cfg: Config, source: Source, fast: bool) -> list[Row]:
    """The rows that a run would use, not decoded. Raises DataError when there are none or a class is unknown."""
    if source.path is None:
        return task.sample(SAMPLE_ROWS, cfg.task)
    found = list(task.read(source.path, cfg.task))
    if not found:
        raise DataError(f"no rows in {source.name}", next=f"`proj data check {source.path}` shows what is there")
    known = set(task.names_of(found, cfg.task))
    odd = sorted({str(r.y) for r in found} - known) if task.kind == "classes" else []
    if odd:
        raise DataError(f"{source.name} has classes that task {task.name} does not know", found=", ".join(odd[:5]))
    return found[:: max(1, len(found) // FAST_ROWS)][:FAST_ROWS] if fast else found


def _decode(rows: list[Row], spec: ImageSpec, tmp: Path, cfg: Config) -> tuple[list[Row], list[dict[str, str]]]:
    """Decode into tmp/x.npy. Returns the rows that could be read and the others with their reasons."""
    x = np.lib.format.open_memmap(tmp / "x.npy", mode="w+", dtype=np.uint8, shape=(len(rows), *spec.shape))
    reasons: dict[int, str] = {}

    def one(i: int) -> None:
        try:
            x[i] = preprocess.image(rows[i].x, spec)
        except InputError as e:
            reasons[i] = str(e)

    # Threads: Pillow lets go of the interpreter lock while it decodes and resizes.
    with (
        ThreadPoolExecutor(cfg.data.workers or os.cpu_count()) as pool,
        console.progress(len(rows), "prepare", "rows") as bar,
    ):
        for _ in pool.map(one, range(len(rows))):
            bar.update()
    skipped = [{"id": rows[i].id, "reason": reasons[i]} for i in sorted(reasons)]
    for s in skipped[:10]:
        logger.warning("skipped {}: {}", s["id"], s["reason"])
    if len(skipped) > cfg.data.max_broken_share * len(rows):
        raise DataError(
            f"{len(skipped)} of {len(rows)} files cannot be read, the first is {skipped[0]['id']}",
            found=f"data.max_broken_share allows {cfg.data.max_broken_share:.1%}",
            next="mend or remove them (`proj data check FOLDER` lists all), or raise data.max_broken_share",
        )
    good = [i for i in range(len(rows)) if i not in reasons]
    if skipped:
        shape = (len(good), *spec.shape)
        whole = np.lib.format.open_memmap(tmp / "x.whole.npy", mode="w+", dtype=np.uint8, shape=shape)
        for to, i in enumerate(good):  # row by row: the whole may not fit into memory
            whole[to] = x[i]
        whole.flush()
        os.replace(tmp / "x.whole.npy", tmp / "x.npy")
    else:
        x.flush()
    return [rows[i] for i in good], skipped


def _write(
    task: Task,
    cfg: Config,
    source: Source,
    rows: list[Row],
    skipped: list[dict[str, str]],
    tmp: Path,
    name: str,
) -> None:
    """Everything but x.npy: targets, groups, splits, statistics, meta.json."""
    names = task.names_of(rows, cfg.task)
    groups = [r.group for r in rows]
    make = splits.by_tail if cfg.data.split == "tail" else splits.by_hash
    split = make(groups, seed=cfg.data.split_seed, val_share=cfg.data.val_share, test_share=cfg.data.test_share)
    y = _targets(task, rows, names)
    x = np.load(tmp / "x.npy", mmap_mode="r", allow_pickle=False)
    mean, std = statistics.channels(x, np.flatnonzero(split == splits.TRAIN))
    for part, array in (
        ("y", y),
        ("split", split),
        ("group", np.array(groups)),
        ("id", np.array([r.id for r in rows])),
    ):
        np.save(tmp / f"{part}.npy", array)
    meta = store.Meta(
        task=task.name,
        title=task.title,
        question=task.question,
        key=name,
        source=source.name,
        sample=source.path is None,
        names=list(names),
        units=list(task.units),
        modality=task.modality,
        kind=task.kind,
        preprocess=task.spec(cfg.task).to_dict(),
        data_hash=_data_hash(x, y, split),
        manifest_hash=source.manifest_hash,
        mean=mean,
        std=std,
        counts=_counts(rows, split, names),
        skipped=skipped,
    )
    _warn_of_gaps(meta)
    store.write_meta(tmp, meta)


def _targets(task: Task, rows: list[Row], names: tuple[str, ...]) -> store.Array:
    if task.kind == "values":
        return np.array([r.y for r in rows], np.float32)
    index = {n: i for i, n in enumerate(names)}
    return np.array([index[str(r.y)] for r in rows], np.int64)


def _counts(rows: Iterable[Row], split: store.Array, names: tuple[str, ...]) -> dict[str, dict[str, int]]:
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
