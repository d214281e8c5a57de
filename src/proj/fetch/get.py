"""From a source, wherever it is, to files on this disk.

    a folder, a file             read in place, never copied or changed
    a zip or tar on this disk    unpacked
    https://  http://  gs://     downloaded; an archive is unpacked
    https://HOST/{a,b}.npy       several files, downloaded into one folder
    hf://datasets/OWNER/NAME     from the hub (also @REVISION, /a/path/inside); archives in it are unpacked
    kaggle://OWNER/NAME          from Kaggle (also @VERSION, /a/file/inside)
    package:NAME/path/inside     a file that an installed Python package ships

A task's default source goes to `raw/<task>/`, any other to `raw/<task>-<hash>/`. These hold data and nothing
else; `raw/.fetched/` keeps what is known of them, unfinished downloads and the locks. A folder that is there
is complete, since it is moved in by one rename, and is kept as it is: another version of it, checked out from
DVC, is not overwritten.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from hashlib import sha256 as _sha256
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from loguru import logger

from proj.console import folder_bytes, size
from proj.errors import ConfigError, DataError, disk_error
from proj.fetch import archive, download
from proj.fetch.manifest import sha256 as digest_of
from proj.fetch.source import HUB, KAGGLE, KINDS, canonical, each, scheme

BY_HAND = "`data.source=PATH` takes the file or folder when it was got by hand"


@dataclass(frozen=True)
class Fetched:
    """Where the data are: a folder, or a file where the source is a single one.

    `source` is its canonical name, without passwords. `in_place`: it is the user's own, and never changed.
    """

    path: Path
    source: str
    in_place: bool


def fetch(
    source: str,
    *,
    default: str,
    raw: Path,
    task: str,
    sha256: str = "",
    timeout_s: float = 20,
    help: str = "",
) -> Fetched:
    """Bring `source` ("default": the task's `default`) to this disk; does nothing when it is there already.

    `sha256` is checked against the file or archive that was named. `help` is the task's own sentence on where
    to get the data. Raises ConfigError (not a source), DataError (nothing there, broken, another digest),
    MissingExtra, ResourceError (disk), Unreachable (within `timeout_s`).
    """
    path, job = _where(source, default=default, raw=raw, task=task, sha256=sha256, timeout_s=timeout_s, help=help)
    if path is not None:
        return Fetched(_in_place(path, job.want), job.name, True)
    return Fetched(job.run(), job.name, False)


def present(source: str, *, default: str, raw: Path, task: str) -> bool:
    """Is `source` on this disk already, so that `fetch` would have nothing to bring? Asks no network."""
    path, job = _where(source, default=default, raw=raw, task=task)
    if path is not None:
        return _in_place(path, "").exists()
    return job.ready() is not None


def _where(
    source: str,
    *,
    default: str,
    raw: Path,
    task: str,
    sha256: str = "",
    timeout_s: float = 20,
    help: str = "",
) -> tuple[Path | None, _Job]:
    """The path of a source that is read in place, or None; and the job that would bring any other."""
    chosen = default if source == "default" else source
    if not chosen:
        raise ConfigError(f"the task {task} has no default source", found=help, next=f"name one: data.source={KINDS}")
    want = _digest(sha256)
    name = canonical(chosen)
    path = None if scheme(chosen) else Path(chosen).expanduser()
    if path is not None and path.is_file() and archive.is_archive(path.name):
        path = None
    is_default = source == "default" or (bool(default) and name == canonical(default))
    folder = task if is_default else f"{task}-{_sha256(name.encode()).hexdigest()[:8]}"
    advice = "; ".join(p for p in (help, BY_HAND) if p)
    return path, _Job(chosen, name, raw / folder, want, timeout_s, advice)


def _digest(text: str) -> str:
    digest = text.strip().lower().removeprefix("sha256:")
    if digest and not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise ConfigError(f"data.sha256 is {text!r}", next="it must be 64 hex digits, or empty")
    return digest


def _in_place(path: Path, want: str) -> Path:
    if not path.exists():
        near = get_close_matches(path.name, [p.name for p in path.parent.iterdir()], 1) if path.parent.is_dir() else []
        raise DataError(
            f"data.source={path} does not exist",
            found=f"the working folder is {Path.cwd()}" if not path.is_absolute() else "",
            next=f"did you mean {path.parent / near[0]}?" if near else f"a source is {KINDS}",
        )
    if want and path.is_dir():
        raise ConfigError(f"data.sha256 is of one file, and {path} is a folder", next="leave data.sha256 out")
    if want:
        _check(path, want, str(path))
    return path


def _check(path: Path, want: str, called: str) -> str:
    """The file's digest, which must be `want` when that is given."""
    got = digest_of(path)
    if want and got != want:
        raise DataError(
            f"{called} is not the file that data.sha256 names",
            found=f"it has {got}, expected {want}",
            next="get it again, or correct data.sha256",
        )
    return got


@dataclass
class _Job:
    """One source on its way to the folder `target`."""

    source: str
    name: str
    target: Path
    want: str
    timeout_s: float
    advice: str

    @property
    def notes(self) -> Path:
        return self.target.parent / ".fetched"

    def _note(self, suffix: str) -> Path:
        return self.notes / f"{self.target.name}.{suffix}"

    def run(self) -> Path:
        if (ready := self.ready()) is not None:
            return ready
        try:
            self.notes.mkdir(parents=True, exist_ok=True)
            with _held(self._note("lock"), self.name):
                # Another process may have been faster.
                return self.ready() or self._get()
        except OSError as e:
            raise disk_error(e, f"{self.name} cannot be saved under {self.target.parent}") from None

    def ready(self) -> Path | None:
        """What is there already, when it is this source's."""
        if not self.target.is_dir() or not (seen := _visible(self.target)):
            return None
        said = self._said()
        if said and (said.get("source") != self.name or said.get("stamp") != self._stamp()):
            return None
        if self.want and said.get("sha256", self.want) != self.want:
            return None
        return seen[0] if len(seen) == 1 and seen[0].is_file() else self.target

    def _said(self) -> dict[str, Any]:
        try:
            said = json.loads(self._note("json").read_text(encoding="utf-8"))
            return said if isinstance(said, dict) else {}
        except (OSError, ValueError):
            return {}

    def _stamp(self) -> str:
        """Tells an archive on this disk from a later one of the same name."""
        if scheme(self.source):
            return ""
        s = Path(self.source).expanduser().stat()
        return f"{s.st_size} {s.st_mtime_ns}"

    def _get(self) -> Path:
        new, stamp = self._note("new"), self._stamp()
        for left in self.notes.glob(f"{self.target.name}.new*"):  # by one that was killed
            shutil.rmtree(left, ignore_errors=True)
        try:
            match scheme(self.source):
                case "package":
                    digest = self._from_package(new)
                case "hf":
                    digest = self._from_hub(new)
                case "kaggle":
                    digest = self._from_kaggle(new)
                case "":
                    path = Path(self.source).expanduser()
                    digest = _check(path, self.want, self.name)
                    archive.unpack(path, new, called=self.name)
                case _ if len(urls := each(self.source)) > 1:
                    digest = self._several(urls, new)
                case _:
                    digest = self._from_web(new)
            self._publish(new)
        finally:
            shutil.rmtree(new, ignore_errors=True)
        self._write_down(digest, stamp)
        ready = self.ready()
        assert ready is not None
        return ready

    def _write_down(self, digest: str, stamp: str) -> None:
        files, total = sum(p.is_file() for p in self.target.rglob("*")), folder_bytes(self.target)
        said = {
            "source": self.name,
            "sha256": digest,
            "stamp": stamp,
            "files": files,
            "bytes": total,
            "fetched": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        tmp = self._note("json.tmp")
        tmp.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
        tmp.replace(self._note("json"))
        logger.info("fetched {}: {:,} files, {}", self.name, files, size(total))

    def _publish(self, new: Path) -> None:
        """Move `new` in. What was there is of another source, or empty."""
        old = self._note("old")
        shutil.rmtree(old, ignore_errors=True)
        if self.target.exists():
            self.target.replace(old)
        try:
            new.replace(self.target)
        except OSError:
            if old.exists():
                old.replace(self.target)
            raise
        shutil.rmtree(old, ignore_errors=True)

    def _from_web(self, new: Path) -> str:
        part = self._note("part")
        got = download.download(download.web_url(self.source), part, timeout_s=self.timeout_s, advice=self.advice)
        try:
            digest = _check(part, self.want, self.name)
            if archive.is_archive(got.name) or (not Path(got.name).suffix and archive.has_entries(part)):
                archive.unpack(part, new, called=self.name if archive.is_archive(self.name) else got.name)
            else:
                new.mkdir()
                part.replace(new / got.name)
        except DataError:  # it would be broken the next time too
            download.forget(part)
            raise
        download.forget(part)
        return digest

    def _several(self, urls: list[str], new: Path) -> str:
        """Each is kept until all are there, so that a next try goes on where this one ended."""
        if self.want:
            raise ConfigError(f"data.sha256 is of one file, and {self.name} is many", next="leave data.sha256 out")
        parts = [self._note(f"{_sha256(canonical(url).encode()).hexdigest()[:8]}.part") for url in urls]
        names = [
            download.download(download.web_url(url), part, timeout_s=self.timeout_s, advice=self.advice).name
            for url, part in zip(urls, parts, strict=True)
        ]
        if len(set(names)) < len(names):
            raise DataError(f"{self.name} names files that are called the same", found=", ".join(names))
        new.mkdir()
        for part, name in zip(parts, names, strict=True):
            part.replace(new / name)
            download.forget(part)
        return ""

    def _from_package(self, new: Path) -> str:
        from proj.fetch.hub import packaged

        path = packaged(self.source)
        digest = _check(path, self.want, self.name)
        download.room(self.notes, path.stat().st_size, self.name)
        new.mkdir()
        shutil.copyfile(path, new / path.name)
        return digest

    def _from_hub(self, new: Path) -> str:
        from proj.fetch.hub import copied, snapshot

        if self.want:
            raise ConfigError(f"data.sha256 is of one file, and {self.name} is many", next="leave data.sha256 out")
        part = re.fullmatch(HUB, self.name.removeprefix("hf://"))
        assert part is not None
        folder = snapshot(
            part["repo"], part["revision"], (part["inside"] or "").strip("/"), self.timeout_s, self.advice
        )
        new.mkdir()
        copied(folder, (part["inside"] or "").strip("/"), new, self.name)
        return ""

    def _from_kaggle(self, new: Path) -> str:
        from proj.fetch.hub import copied
        from proj.fetch.kaggle import snapshot

        if self.want:
            raise ConfigError(f"data.sha256 is of one file, and {self.name} is many", next="leave data.sha256 out")
        part = re.fullmatch(KAGGLE, self.name.removeprefix("kaggle://"))
        assert part is not None
        inside = (part["inside"] or "").strip("/")
        got = snapshot(part["repo"], part["version"], inside, self.timeout_s, self.advice)
        new.mkdir()
        copied(got.parent if got.is_file() else got, got.name if got.is_file() else "", new, self.name)
        return ""


def _visible(folder: Path) -> list[Path]:
    return [p for p in folder.iterdir() if not p.name.startswith(".")]


@contextmanager
def _held(lock: Path, name: str) -> Iterator[None]:
    """Hold the lock; say so when it must be waited for."""
    guard = FileLock(lock)
    try:
        guard.acquire(timeout=0)
    except Timeout:
        logger.info("another process is fetching {}: waiting for it", name)
        guard.acquire()
    try:
        yield
    finally:
        guard.release()
