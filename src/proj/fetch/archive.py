"""Unpack a zip or tar that nobody vouches for: inside its folder only, within limits, whole or not at all."""

from __future__ import annotations

import errno
import os
import posixpath
import re
import secrets
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from proj.console import Bar, progress, size
from proj.errors import SPARE_BYTES, DataError, ResourceError, disk_error

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
CHUNK = 2**20
_LITTER = frozenset({"__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini"})
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Over these an archive is taken for a bomb. `ratio` (unpacked to packed) counts from `small` bytes."""

    files: int = 1_000_000
    bytes: int = 2 * 10**12
    ratio: float = 250.0
    small: int = 200_000_000


def is_archive(name: str) -> bool:
    """Say whether the file's name is an archive's."""
    return name.lower().endswith(SUFFIXES)


def has_entries(path: Path) -> bool:
    """Say whether the file's content is an archive's, for one whose name says nothing."""
    return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)


def unpack(archive: Path, folder: Path, *, called: str = "", limits: Limits | None = None) -> int:
    """Unpack into `folder`, which must not exist yet, and return how many files it holds.

    `called` is the archive's name for a reader, where it is not the file's own. A single folder at the
    archive's top is left out, so that `folder` itself holds what is in it. Links to files become copies;
    rubbish of macOS and Windows is skipped. Raises DataError (broken, encrypted, no archive, a name or link
    that leads out, a device, a bomb, empty), ResourceError (disk). On any error nothing is left behind.
    """
    tmp = folder.with_name(f"{folder.name}.unpack-{secrets.token_hex(4)}")
    called = called or str(archive)
    try:
        with _errors(called), progress(0, f"unpacking {called.rpartition('/')[2]}", "B") as bar:
            tmp.mkdir(parents=True)
            work = _Unpacking(called, tmp, archive.stat().st_size, limits or Limits(), bar)
            with archive.open("rb") as f:
                start = f.read(512)
            if start.startswith((b"PK\3\4", b"PK\5\6")):  # not is_zipfile: a tar may end in a zip
                _unzip(archive, work)
            elif called.lower().endswith(".zip"):
                raise work.refuse("not a zip archive", _looks_like(start))
            else:
                _untar(archive, work, start)
            if not work.files:
                raise work.refuse("the archive holds no files")
            _top(tmp).replace(folder)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)
    return len(work.files)


@dataclass
class _Unpacking:
    """The archive `called` on its way to `root`. `files` are the names written so far, posix."""

    called: str
    root: Path
    packed: int
    limits: Limits
    bar: Bar
    files: set[str] = field(default_factory=set)
    entries: int = 0
    written: int = 0

    def refuse(self, why: str, found: str = "") -> DataError:
        return _refused(self.called, why, found)

    def admit(self, name: str) -> str | None:
        """The entry's name as a clean relative path; None when it is to be skipped."""
        name = name.replace("\\", "/")  # some Windows programs write their own separator, against the format
        self.entries += 1
        if self.entries > self.limits.files:
            raise self.refuse(f"more than {self.limits.files:,} entries", "taken for a bomb")
        if name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in name.split("/") or "\0" in name:
            raise self.refuse(f"the entry {name!r} leads out of the folder")
        parts = [p for p in name.split("/") if p not in {"", "."}]
        if not parts or _LITTER & set(parts) or parts[-1].startswith("._"):
            return None
        return "/".join(parts)

    def announce(self, total: int) -> None:
        """Refuse beforehand what the archive itself says would be too much."""
        self.bound(total)
        free = shutil.disk_usage(self.root).free
        if total + SPARE_BYTES > free:
            raise ResourceError(
                f"no room to unpack {self.called}",
                found=f"it unpacks to {size(total)}, {size(free)} are free",
                next="free some, or put data/ on a larger disk",
            )

    def write(self, name: str, source: IO[bytes], want: int) -> None:
        """Copy `source` to `name`; it must give `want` bytes."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        got = 0
        with path.open("wb") as f:
            while chunk := source.read(CHUNK):
                got += len(chunk)
                self.bound(self.written + got)
                f.write(chunk)
                self.bar.update(len(chunk))
        if got != want:
            raise self.refuse(f"the entry {name!r} is cut off", f"{got:,} of {want:,} bytes")
        self.written += got
        self.files.add(name)

    def link(self, name: str, target: str) -> None:
        """A copy of the file `target`, unpacked before, in place of a link to it."""
        with (self.root / target).open("rb") as f:
            self.write(name, f, (self.root / target).stat().st_size)

    def bound(self, total: int) -> None:
        """Refuse a bomb: `total` bytes were unpacked, or would be."""
        if total > self.limits.bytes or (total > self.limits.small and total > self.limits.ratio * max(self.packed, 1)):
            grown = f"it unpacks to {size(total)} or more from {size(self.packed)}"
            raise self.refuse(grown, "taken for a bomb")


def _unzip(archive: Path, work: _Unpacking) -> None:
    with zipfile.ZipFile(archive) as z:
        infos = z.infolist()
        work.announce(sum(i.file_size for i in infos))
        for info in infos:
            name = work.admit(info.filename)
            kind = stat.S_IFMT(info.external_attr >> 16)
            if name is None or info.is_dir():
                continue
            if info.flag_bits & 1:
                raise work.refuse("the archive is encrypted", f"entry {info.filename!r}")
            if kind not in {0, stat.S_IFREG}:
                raise work.refuse(f"the entry {info.filename!r} is a link or a device")
            with z.open(info) as f:
                work.write(name, f, info.file_size)


def _untar(archive: Path, work: _Unpacking, start: bytes) -> None:
    links: dict[str, str] = {}
    try:
        tar = tarfile.open(archive, "r:*")  # noqa: SIM115 (closed below; the `try` is for opening alone)
    except tarfile.ReadError:
        packed = start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ"))
        why = "the archive is broken or cut off" if packed else "not an archive that can be read"
        raise work.refuse(why, "" if packed else _looks_like(start)) from None
    with tar:
        while (member := tar.next()) is not None:
            name = work.admit(member.name)
            if name is None or member.isdir():
                continue
            # Python's own rules for data on top of ours: they refuse devices and what leads outside.
            tarfile.data_filter(member, os.fspath(work.root))
            if member.islnk() or member.issym():
                base = posixpath.dirname(name) if member.issym() else ""
                links[name] = posixpath.normpath(posixpath.join(base, member.linkname))
            elif (f := tar.extractfile(member)) is not None:
                if member.size + SPARE_BYTES > shutil.disk_usage(work.root).free:
                    work.announce(member.size)
                work.write(name, f, member.size)
        _ended(tar, work)
    for name in links:
        work.link(name, _followed(name, links, work))


def _ended(tar: tarfile.TarFile, work: _Unpacking) -> None:
    """Check the end. Python takes a damaged header, or no more bytes, for it; it is a block of zeros.

    The rest is read too, since a compressed stream has its checksum at its very end.
    """
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise work.refuse("the archive is broken or cut off", f"no end after {tar.offset:,} bytes")
    rest = 0
    while chunk := tar.fileobj.read(CHUNK):
        rest += len(chunk)
        work.bound(work.written + rest)


def _followed(name: str, links: dict[str, str], work: _Unpacking) -> str:
    """The file that a link leads to, through other links. No link is made on the disk: none can lead out."""
    target, seen = links[name], {name}
    while target in links and target not in seen:
        seen.add(target)
        target = links[target]
    if target not in work.files:
        raise work.refuse(f"the link {name!r} leads to no file of the archive", f"{links[name]!r}")
    return target


def _top(root: Path) -> Path:
    """The single folder in `root`, or `root`."""
    inside = list(root.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else root


def _looks_like(start: bytes) -> str:
    text = start.lstrip()[:64].lower()
    if not start:
        return "the file is empty"
    if text.startswith((b"<!doctype", b"<html", b"<head")):
        return "it is a web page: the link leads to a page about the file, not to the file"
    if text.startswith((b"{", b"<?xml")):
        return f"it begins with {text[:40].decode('utf-8', 'replace')!r}"
    return f"it begins with the bytes {start[:8].hex(' ')}"


def _refused(called: str, why: str, found: str) -> DataError:
    return DataError(
        f"{called} cannot be unpacked",
        found=f"{why}: {found}" if found else why,
        next="nothing of it was kept; get the file again",
    )


@contextmanager
def _errors(archive: str) -> Iterator[None]:
    """What zipfile, tarfile and their decoders raise, as DataError; a full disk as ResourceError.

    `archive` is its name for a reader.
    """
    import lzma
    import struct
    import zlib

    try:
        yield
    except tarfile.FilterError as e:
        raise _refused(archive, "an entry leads out of the folder or is a device", str(e)) from None
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, struct.error) as e:
        raise _refused(archive, "the archive is broken or cut off", str(e)) from None
    except (NotImplementedError, RuntimeError, ValueError, OverflowError, KeyError) as e:
        raise _refused(archive, "the archive is of a kind that is not read", str(e)) from None
    except OSError as e:
        if e.errno in _DISK:
            raise disk_error(e, f"{archive} cannot be unpacked") from None
        raise _refused(archive, "the archive is broken, or its names cannot be files here", str(e)) from None
