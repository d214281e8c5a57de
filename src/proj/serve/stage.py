"""The server's own copies of the bundles it serves, which nobody else can change, in a folder that it alone has."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from proj.bundle import GRAPH, TOKENIZER
from proj.errors import ResourceError

FILES = ("bundle.json", GRAPH, TOKENIZER)
NEEDED = FILES[:2]
MEMORY_DISK = Path("/dev/shm")

# What tells one state of a bundle's folder from a later one: each file's place on the disk, time and size.
Mark = tuple[tuple[str, int, int, int], ...]


def mark(bundle: Path) -> Mark | None:
    """The state that the files are in; None where bundle.json or model.onnx is not there."""
    found = []
    for name in FILES:
        with contextlib.suppress(OSError):
            s = (bundle / name).stat()
            found.append((str(bundle / name), s.st_ino, s.st_mtime_ns, s.st_size))
    names = {Path(path).name for path, *_ in found}
    return tuple(found) if names.issuperset(NEEDED) else None


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """The server's folder while it runs. Raises ResourceError where nothing can be written."""
    places = [None, MEMORY_DISK]  # a container's root may be read-only
    why = ""
    for place in places:
        try:
            temporary = tempfile.TemporaryDirectory(prefix="proj-serve-", dir=place, ignore_cleanup_errors=True)
        except OSError as e:
            why = e.strerror or str(e)
            continue
        with temporary as path, _kept(path):
            yield Path(path)
        return
    raise ResourceError("no temporary folder can be written", found=why, next="name one that can: TMPDIR=FOLDER")


@contextlib.contextmanager
def _kept(folder: str) -> Iterator[None]:
    """Hold a lock on it: systemd's cleaning of temporary folders leaves those alone."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_SH)
        yield
    finally:
        os.close(held)


def copy(bundle: Path, staged: Path) -> None:
    """Copy a bundle's files to the new folder `staged`. Raises OSError, FileNotFoundError for a file that is missing.

    Links are followed: what they lead to is copied.
    """
    staged.mkdir()
    for name in FILES:
        if name in NEEDED or (bundle / name).exists():
            shutil.copyfile(bundle / name, staged / name)


def is_full(error: OSError) -> bool:
    """Did a copy fail for want of room?"""
    return error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def drop(staged: Path) -> None:
    """Remove a copy that nobody loads any more."""
    shutil.rmtree(staged, ignore_errors=True)
