"""What a folder of data holds, byte for byte: names, sizes and SHA-256 digests."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loguru import logger

from proj.console import progress
from proj.errors import DataError

SETTLED_NS = 2_000_000_000  # a file younger than this may change again without its time changing


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """One file: `name` relative to the folder, with `/`; `size` in bytes; `sha256` as 64 hex digits."""

    name: str
    size: int
    sha256: str


def manifest(path: Path, *, cache: Path | None = None) -> list[Entry]:
    """All files under `path` (or the file itself), sorted by name; hidden ones left out, links followed.

    `cache` is a JSON file that remembers digests by name, size and time of change, so that an unchanged
    folder is not read again. Raises DataError when there is nothing, or a file cannot be read.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist")
    known = _remembered(cache, path)
    found = [(name, file, _stat(file)) for name, file in sorted(_files(path))]
    keys = [f"{name}\0{s.st_size}\0{s.st_mtime_ns}" for name, _, s in found]
    missing = [i for i, key in enumerate(keys) if key not in known]
    threads = min(8, (os.cpu_count() or 1) + 2)
    with ThreadPoolExecutor(threads) as pool, progress(len(missing), "hashing", "files") as bar:
        for i, digest in zip(missing, pool.map(lambda i: sha256(found[i][1]), missing), strict=True):
            known[keys[i]] = digest
            bar.update()
    if cache is not None and missing:
        before = time.time_ns() - SETTLED_NS
        settled = {k: known[k] for k, (_, _, s) in zip(keys, found, strict=True) if s.st_mtime_ns < before}
        _remember(cache, path, settled)
    return [Entry(name, s.st_size, known[key]) for key, (name, _, s) in zip(keys, found, strict=True)]


def manifest_digest(entries: list[Entry]) -> str:
    """One SHA-256 over all names and contents, whatever the order; 64 hex digits."""
    whole = hashlib.sha256()
    for e in sorted(entries):
        whole.update(f"{e.sha256} {e.size} ".encode() + e.name.encode("utf-8", "surrogateescape") + b"\n")
    return whole.hexdigest()


def sha256(path: Path) -> str:
    """The file's SHA-256, 64 hex digits. Raises DataError when it cannot be read."""
    try:
        with path.open("rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()
    except OSError as e:
        raise DataError(f"{path} cannot be read", found=e.strerror or str(e)) from None


def _files(path: Path) -> Iterator[tuple[str, Path]]:
    if path.is_file():
        yield path.name, path
        return
    seen: set[tuple[int, int]] = set()
    for here, folders, names in os.walk(path, followlinks=True):
        s = Path(here).stat()
        if (s.st_dev, s.st_ino) in seen:  # a link to a folder above: once is enough
            folders.clear()
            continue
        seen.add((s.st_dev, s.st_ino))
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in names:
            if not name.startswith("."):
                file = Path(here, name)
                yield file.relative_to(path).as_posix(), file


def _stat(file: Path) -> os.stat_result:
    try:
        return file.stat()
    except OSError as e:
        raise DataError(f"{file} cannot be read", found=e.strerror or str(e)) from None


def _remembered(cache: Path | None, path: Path) -> dict[str, str]:
    """Digests by "name NUL size NUL mtime_ns". A cache that is broken, or of another folder, is none."""
    if cache is None:
        return {}
    try:
        said: Any = json.loads(cache.read_text(encoding="utf-8"))
        if said["folder"] == str(path.resolve()):
            return {str(k): str(v) for k, v in said["sha256"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return {}


def _remember(cache: Path, path: Path, known: dict[str, str]) -> None:
    tmp = cache.with_name(f"{cache.name}.tmp")  # one name, so that none is left lying about
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        tmp.write_text(json.dumps({"folder": str(path.resolve()), "sha256": known}), encoding="utf-8")
        tmp.replace(cache)
    except OSError as e:  # only slower the next time
        logger.debug("digests are not remembered in {}: {}", cache, e)
