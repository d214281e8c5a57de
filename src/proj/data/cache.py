"""What training keeps so as not to compute it twice: features of a frozen backbone, ids of texts. Bounded.

data/features/
  <task>/<key>.npy          an array, whole or not there
  <task>/<key>.json         `About` it; its time of change is when the array was last used
  <task>/.<key>.part.npy    what there is of an array that is being computed
  <task>/.<key>.lock        held by whoever computes it: a part without that was left by a kill
  ids-<key>/                token ids, of train/tokens.py; about.json inside
  .lock                     held while files appear and go

Deleting any of it is always safe.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger

from proj import console, runs
from proj.errors import ResourceError

Array = np.ndarray[Any, np.dtype[Any]]
IDS = "ids-"
UNFINISHED = (".*.npy", f".{IDS}*")
HEADER_BYTES = 128  # of an .npy file
STALE_S = 3600.0  # an unfinished file that no lock guards belongs to nobody after so long
_held: set[Path] = set()  # what this process has opened


@dataclass(frozen=True, kw_only=True)
class About:
    """What a kept array is. `settings`: config keys that decided it, where they are not the defaults."""

    what: str
    prepared: str = ""  # the key of the data
    settings: dict[str, Any] = field(default_factory=dict)
    rows: int = 0
    made: str = ""  # ISO 8601, UTC


@dataclass(frozen=True)
class Entry:
    """`task`: "" where the place does not tell. `used`: seconds since 1970."""

    path: Path
    task: str
    about: About
    bytes: int
    used: float


def entries(root: Path) -> list[Entry]:
    """All that is kept, the last used first."""
    found = [e for e in (_entry(root, p) for p in _paths(root)) if e is not None]
    return sorted(found, key=lambda e: (-e.used, str(e.path)))


def once(
    root: Path, path: Path, shape: tuple[int, ...], about: About, *, limit_bytes: float, fill: Callable[[Array], None]
) -> Array:
    """The float32 array at `path` (root/<task>/<key>.npy), on disk; where there is none, `fill` writes one of `shape`.

    Of processes that want the same one, one computes and the others wait. What was least recently used goes first
    where all would be more than `limit_bytes`; what this process has opened stays. Raises ResourceError (disk).
    """
    found = opened(path)
    if found is not None:
        logger.info("{}: from {}", about.what, path.name)
        return found
    path.parent.mkdir(parents=True, exist_ok=True)
    with _turn(path):
        found = opened(path)
        return _made(root, path, shape, about, limit_bytes, fill) if found is None else found


def opened(path: Path) -> Array | None:
    """The array at `path`, mapped and marked as used, or None where there is none. A broken one is removed."""
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        return None
    except (EOFError, ValueError) as e:
        logger.warning("{} is broken ({}): computed anew", path, e)
        _removed(path)
        return None
    used(path)
    return array


def used(path: Path) -> None:
    """Keep `path` from removal while this process lives, and late in the order of removals after that."""
    _held.add(path)
    now = time.time_ns()  # finer than what the system itself would write
    for file in (_beside(path), path):
        with suppress(OSError):  # a read-only folder, or an array of which nothing is told
            os.utime(file, ns=(now, now))
            return


def tell(path: Path, about: About) -> None:
    """Write what `path` is, and when it was made, beside it."""
    runs.write_json(_beside(path), asdict(about) | {"made": runs.now()})


def clear(root: Path, task: str = "") -> list[Entry]:
    """Remove all that is kept (of `task`); returns what went. Files that are in use on Windows stay."""
    if not root.is_dir():
        return []
    with _lock(root):
        return [e for e in entries(root) if task in {"", e.task} and _removed(e.path)]


def tidy(root: Path) -> list[Path]:
    """Remove what killed processes left unfinished; returns what went."""
    if not root.is_dir():
        return []
    with _lock(root):
        return _tidied(root)


# --- writing


def _made(
    root: Path, path: Path, shape: tuple[int, ...], about: About, limit_bytes: float, fill: Callable[[Array], None]
) -> Array:
    part = path.with_name(f".{path.stem}.part.npy")
    part.unlink(missing_ok=True)  # left by a kill: whoever has the turn owns it
    try:
        with _lock(root):
            _make_room(root, math.prod(shape) * 4 + HEADER_BYTES, limit_bytes)
            _allocate(part, shape)
        array = np.load(part, mmap_mode="r+", allow_pickle=False)
        fill(array)
        array.flush()  # or a machine that goes down could leave a whole file of zeros
        del array  # Windows renames no file that is mapped
        with _lock(root):
            tell(path, about)
            os.replace(part, path)
            found = opened(path)  # before another process may remove it
            total = _make_room(root, 0, limit_bytes)  # of what others wrote meanwhile
            if total > limit_bytes:
                what = f"{console.size(total)} are in use or being written"
                logger.warning("cache: {}, over data.cache_gb={:g}", what, limit_bytes / 1e9)
    finally:
        with suppress(PermissionError):  # Windows, while a traceback still holds the array
            part.unlink(missing_ok=True)
    assert found is not None
    return found


def _allocate(part: Path, shape: tuple[int, ...]) -> None:
    """An empty array with all its blocks: a disk that is full later would end the process by a bus error."""
    np.lib.format.open_memmap(part, mode="w+", dtype=np.float32, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with part.open("r+b") as f:
            os.posix_fallocate(f.fileno(), 0, part.stat().st_size)


def _make_room(root: Path, need: int, limit_bytes: float) -> int:
    """Remove the least recently used until `need` more fit into the bound and onto the disk. The lock is held.

    Returns the bytes that it all is then, with what is needed.
    """
    _tidied(root)
    there = entries(root)
    total = need + sum(e.bytes for e in there)
    for part in root.glob("*/.*.part.npy"):
        with suppress(FileNotFoundError):  # its writer just gave up
            total += part.stat().st_size
    free = runs.free_bytes(root)
    may_go = [e for e in reversed(there) if e.path not in _held]
    if need > free + sum(e.bytes for e in may_go):
        raise ResourceError(
            f"keeping this needs {console.size(need)}",
            found=f"{console.size(free)} are free",
            next="free space, or keep nothing: model.cache=false",
        )
    gone = []
    for e in may_go:
        if total <= limit_bytes and need <= free:
            break
        if _removed(e.path):
            total, free = total - e.bytes, free + e.bytes
            gone.append(f"{e.about.what} of {e.task or 'some task'} ({console.size(e.bytes)})")
    if gone:
        bound, names = f"data.cache_gb={limit_bytes / 1e9:g}", ", ".join(gone)
        logger.info("cache: removed what was used least recently, to make room within {}: {}", bound, names)
    return total


# --- removing


def _removed(path: Path) -> bool:
    """Remove an array or a folder of ids, and what is told of it."""
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
            _beside(path).unlink(missing_ok=True)
    except PermissionError as e:
        logger.warning("{} stays: {}", path, e.strerror)
        return False
    return True


def _tidied(root: Path) -> list[Path]:
    gone = [p for pattern in UNFINISHED for p in (*root.glob(pattern), *root.glob(f"*/{pattern}")) if _is_left(p)]
    for p in gone:
        if p.is_dir():
            shutil.rmtree(p, ignore_errors=True)
        else:
            p.unlink(missing_ok=True)
    for told in root.glob("[!.]*/*.json"):  # written just before its array appears
        if not told.parent.name.startswith(IDS) and not told.with_suffix(".npy").exists():
            told.unlink(missing_ok=True)
    return gone


def _is_left(p: Path) -> bool:
    """Was this unfinished file or folder left by a process that is gone?"""
    from filelock import FileLock, Timeout

    if not p.name.endswith(".part.npy"):
        return p.exists() and time.time() - p.stat().st_mtime > STALE_S
    guard = FileLock(p.with_name(f"{p.name.removesuffix('.part.npy')}.lock"))
    try:
        guard.acquire(timeout=0)
    except Timeout:
        return False
    guard.release()
    return True


# --- places, locks


def _beside(path: Path) -> Path:
    """The JSON that tells of an array, or of a folder of ids: then it is inside."""
    return path / "about.json" if path.is_dir() else path.with_name(f"{path.stem}.json")


def _paths(root: Path) -> Iterator[Path]:
    for folder in (root, *(p for p in root.glob("*/") if not p.name.startswith((".", IDS)))):
        for p in folder.glob("[!.]*"):
            if p.suffix == ".npy" or (p.name.startswith(IDS) and p.is_dir()):
                yield p


def _entry(root: Path, path: Path) -> Entry | None:
    """None where another process just removed it."""
    try:
        size = console.folder_bytes(path) if path.is_dir() else path.stat().st_size
        last = max(p.stat().st_mtime for p in (_beside(path), path) if p.exists())
    except (FileNotFoundError, ValueError):
        return None
    return Entry(path, "" if path.parent == root else path.parent.name, _about(path), size, last)


def _about(path: Path) -> About:
    """What is told of it, or where nothing readable is, what its name says."""
    guess = About(what="token ids" if path.name.startswith(IDS) else "features")
    try:
        told = json.loads(_beside(path).read_text(encoding="utf-8"))
        known = {f.name: told[f.name] for f in fields(About)}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return guess
    return About(**known) if all(type(v) is type(getattr(guess, k)) for k, v in known.items()) else guess


@contextmanager
def _lock(root: Path) -> Iterator[None]:
    """Held for moments only."""
    from filelock import FileLock

    with FileLock(root / ".lock"):
        yield


@contextmanager
def _turn(path: Path) -> Iterator[None]:
    """Held while `path` is computed."""
    from filelock import FileLock, Timeout

    guard = FileLock(path.with_name(f".{path.stem}.lock"))
    try:
        guard.acquire(timeout=0)
    except Timeout:
        logger.info("waiting for another process that computes {}", path.name)
        guard.acquire()
    try:
        yield
    finally:
        guard.release()
