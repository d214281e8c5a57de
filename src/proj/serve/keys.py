"""Keys of those who may ask: a file of names and hashes, written by `proj keys`, read again by a running server.

A key is 32 random bytes, shown once. The file keeps its SHA-256: against a value of 256 random bits there is nothing
to guess, so that neither salt nor a slow hash (which passwords need, because people choose them) would add anything,
and a slow one would let anybody keep the server busy with wrong keys.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loguru import logger

from proj.errors import ConfigError, UsageError, disk_error

FILE_NAME = "keys.json"
PREFIX = "proj_"  # so that a scanner of repositories knows one when it sees one
RANDOM_BYTES = 32
LOOK_EVERY_S = 1.0
LOCK_S = 10.0
# Begins with a letter and has no colon: no address looks like it.
NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Key:
    """`sha256` of the token, in hex; `created` in UTC."""

    name: str
    sha256: str
    created: str


def read(path: Path) -> list[Key]:
    """The keys of a file, at least none. Raises ConfigError: no such file, or not a file of keys."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        keys = [Key(**one) for one in raw["keys"]]
        _check(keys)
    except FileNotFoundError:
        raise ConfigError(
            f"there is no file of keys at {path}", next=f"`proj keys add NAME --file {path}` makes it"
        ) from None
    except OSError as e:
        raise ConfigError(f"the keys in {path} cannot be read", found=e.strerror or str(e)) from None
    except (ValueError, TypeError, KeyError, RecursionError) as e:
        reason = str(e) if type(e) is ValueError else type(e).__name__  # others could quote the content
        raise ConfigError(
            f"{path} is not a file of keys",
            found=reason,
            next="`proj keys add NAME` makes one; restore it from a copy, or remove it",
        ) from None
    return keys


def _check(keys: Sequence[Key]) -> None:
    for key in keys:
        if not isinstance(key.name, str) or not NAME.fullmatch(key.name):
            raise ValueError("a name that no key can have")
        if not isinstance(key.sha256, str) or not HASH.fullmatch(key.sha256):
            raise ValueError(f"the hash of {key.name!r} is not 64 hexadecimal digits")
        if not isinstance(key.created, str):
            raise ValueError(f"{key.name!r} has no time of creation")
    if len({k.name for k in keys}) < len(keys):
        raise ValueError("a name stands there twice")


def add(path: Path, name: str) -> str:
    """Make a key and return its token, which is kept nowhere. Raises UsageError for a name that cannot be."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name[:80]!r} cannot be a key's name", found="letters, digits, . _ - after a letter, 64 at the most"
        )
    token = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    with _locked(path):
        keys = read(path) if path.exists() else []
        if any(k.name == name for k in keys):
            raise UsageError(f"{path} has a key called {name!r}", next=f"`proj keys revoke {name}` first")
        _write(path, [*keys, Key(name, _hash(token.encode()).hex(), created)])
    return token


def revoke(path: Path, name: str) -> Key:
    """Take a key away and return what was known of it. Raises UsageError when there is none of that name."""
    with _locked(path):
        keys = read(path)
        gone = next((k for k in keys if k.name == name), None)
        if gone is None:
            known = ", ".join(k.name for k in keys)
            raise UsageError(f"{path} has no key called {name!r}", found=f"it has {known}" if known else "it has none")
        _write(path, [k for k in keys if k is not gone])
    return gone


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the file among those that write it; readers see the one before or the one after."""
    from filelock import FileLock, Timeout

    guard = FileLock(path.with_name(f".{path.name}.lock"), timeout=LOCK_S)
    try:
        guard.acquire()
    except Timeout:
        raise ConfigError(f"{path} is being written by another process", next="try again") from None
    except OSError as e:
        raise disk_error(e, f"{path} cannot be written") from None
    try:
        yield
    finally:
        guard.release()


def _write(path: Path, keys: Sequence[Key]) -> None:
    """Replace the file at once, readable by its owner alone."""
    final = path.resolve()  # of a link its target, not the link
    tmp = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    text = json.dumps({"keys": [asdict(k) for k in keys]}, indent=1) + "\n"
    try:
        tmp.unlink(missing_ok=True)
        with os.fdopen(os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        os.replace(tmp, final)
    except OSError as e:
        tmp.unlink(missing_ok=True)
        raise disk_error(e, f"{path} cannot be written") from None


def _hash(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


class Keys:
    """The keys as a running server knows them: the file is looked at again when it has changed.

    A file that is broken or gone leaves those that were known, and is logged once. Without any known (a worker that
    starts while the file is broken) nobody is let in.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Keys are found by a hash under a secret of this process: the time that it takes tells a stranger nothing of
        # how near a guess came, however many keys there are.
        self._secret = os.urandom(32)
        self._known: dict[bytes, tuple[bytes, str]] = {}
        self._stamp: Any = ()
        self._look_at_s = 0.0

    def name(self, token: bytes) -> str:
        """Whose key it is, "" when nobody's."""
        now_s = time.monotonic()
        if now_s >= self._look_at_s:
            self._look_at_s = now_s + LOOK_EVERY_S
            self._look()
        digest = _hash(token)
        known = self._known.get(self._blind(digest))
        return known[1] if known is not None and hmac.compare_digest(known[0], digest) else ""

    def _look(self) -> None:
        try:
            s = self.path.stat()
            stamp: Any = (s.st_mtime_ns, s.st_size, s.st_ino)
        except OSError as e:
            stamp = e.errno
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            keys = read(self.path)
        except ConfigError as e:
            logger.error("{}; {} keys are known from before", e, len(self._known))
            return
        digests = [(bytes.fromhex(k.sha256), k.name) for k in keys]
        self._known = {self._blind(digest): (digest, name) for digest, name in digests}

    def _blind(self, digest: bytes) -> bytes:
        return hashlib.blake2b(digest, key=self._secret, digest_size=16).digest()
