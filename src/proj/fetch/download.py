"""Get a file over HTTP, whole: resumed where it broke off, retried, its length checked."""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import threading
import time
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO
from urllib.parse import quote, urlencode

import httpx
from loguru import logger

from proj.console import progress, size
from proj.errors import SPARE_BYTES, DataError, ResourceError, Unreachable, disk_error

BACKOFF_S = 0.25
MOST_TRIES = 30
TRIES_WITHOUT_A_BYTE = 4
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Downloaded:
    """`name` is the file's own, as the server or the URL says it; `validator` its ETag or date ("": none)."""

    name: str
    size: int
    validator: str


class _LostError(Exception):
    """The connection broke, or the server asks to come again."""


class UnchangedError(Exception):
    """The server says 304."""


def web_url(source: str) -> str:
    """The address of a `gs://bucket/key`, an emulator's where STORAGE_EMULATOR_HOST is set; others as is."""
    if not source.startswith("gs://"):
        return source
    host = os.environ.get("STORAGE_EMULATOR_HOST") or "https://storage.googleapis.com"
    base = host if "://" in host else f"http://{host}"
    return f"{base.rstrip('/')}/{quote(source.removeprefix('gs://'))}"


def download(url: str, part: Path, *, timeout_s: float, advice: str, known: str = "") -> Downloaded:
    """Fetch `url` to the file `part`; what is there already of the same version is not fetched again.

    Without a byte for `timeout_s`, whatever the cause, it gives up. `advice` ends the messages of errors.
    With `known`, a validator, the server may say that nothing changed: raises UnchangedError. Raises
    Unreachable (part is kept for the next try), DataError (not there), ResourceError (disk).
    """
    tries = idle = 0
    until = time.monotonic() + timeout_s
    with httpx.Client(follow_redirects=True, headers={"User-Agent": "proj"}, timeout=timeout_s) as client:
        while True:
            had = _bytes(part)
            try:
                return _Attempt(client, url, part, advice, known).run(until - time.monotonic())
            except (_LostError, httpx.TransportError, httpx.DecodingError) as e:
                tries += 1
                if _bytes(part) > had:
                    idle, until = 0, time.monotonic() + timeout_s
                else:
                    idle += 1
                wait = min(BACKOFF_S * 2**idle, 4.0)
                if tries >= MOST_TRIES or idle >= TRIES_WITHOUT_A_BYTE or time.monotonic() + wait > until:
                    raise _unreachable(url, e, tries, _bytes(part), advice) from None
                logger.info("{}: {}; again in {:.1f} s", httpx.URL(url).host, _why(e), wait)
                time.sleep(wait)
            except httpx.TooManyRedirects:
                raise Unreachable(f"{shown(url)} redirects without end", next=advice) from None


def answers(url: str, timeout_s: float) -> str:
    """Ask whether a host answers at all, within `timeout_s`; returns "" or why not."""
    with httpx.Client(timeout=timeout_s) as client:
        try:
            _opened(client, client.build_request("HEAD", url), timeout_s).close()
        except (_LostError, httpx.TransportError) as e:
            return _why(e)
    return ""


def shown(url: str) -> str:
    """The URL without passwords and signatures: for messages, records, and to tell sources apart."""
    u = httpx.URL(url)
    secret = re.compile(r"(?i)^x-(goog|amz)-|sig|token|secret|key|password|^expires$|^se$|^sp$|^sv$")
    kept = [(k, v) for k, v in u.params.multi_items() if not secret.search(k)]
    bare = u.copy_with(username="", password="", fragment=None, query=None)
    return str(bare.copy_with(query=urlencode(kept).encode()) if kept else bare)


@dataclass
class _Attempt:
    """One request for what is missing of `part`."""

    client: httpx.Client
    url: str
    part: Path
    advice: str
    known: str

    def run(self, budget_s: float) -> Downloaded:
        headers = {"Accept-Encoding": "identity"}
        had, (validator, name) = _bytes(self.part), _remembered(self.part, self.url)
        if had and validator:
            headers |= {"Range": f"bytes={had}-", "If-Range": validator}
        elif self.known:
            headers |= {"If-None-Match" if _is_etag(self.known) else "If-Modified-Since": self.known}
        answer = _opened(self.client, self.client.build_request("GET", self.url, headers=headers), budget_s)
        try:
            if answer.status_code == 416 and answer.headers.get("content-range") == f"bytes */{had}":
                return Downloaded(name, had, validator)  # all was there
            self._judge(answer)
            return self._save(answer, had)
        finally:
            answer.close()

    def _judge(self, answer: httpx.Response) -> None:
        """Raise whatever the status calls for; 200 and 206 pass."""
        status = f"{answer.status_code} {answer.reason_phrase}".strip()
        if self.url.startswith("https:") and answer.url.scheme != "https":
            raise Unreachable(f"{shown(self.url)} leads to an address without https", next=self.advice)
        if answer.status_code == 304:
            raise UnchangedError
        if answer.status_code == 416:  # what is there is not of this version: from the start
            self.part.unlink(missing_ok=True)
            raise _LostError("the server has fewer bytes than were fetched before")
        if answer.status_code in _RETRIED:
            raise _LostError(f"the server answers {status}")
        if answer.status_code in {401, 403, 407}:
            raise Unreachable(
                f"{shown(self.url)} may not be read", found=f"the server answers {status}", next=self.advice
            )
        if answer.status_code in {404, 410}:
            raise DataError(f"nothing is at {shown(self.url)}", found=f"the server answers {status}", next=self.advice)
        if answer.status_code not in {200, 206}:
            raise Unreachable(f"{shown(self.url)} cannot be read", found=f"it answers {status}", next=self.advice)

    def _save(self, answer: httpx.Response, had: int) -> Downloaded:
        """Write the body behind what is there (206) or anew (200), and compare with the announced length."""
        name, encoding = _name(answer, self.url), answer.headers.get("content-encoding", "identity")
        # Some servers call a .gz file's own compression an encoding: it stays.
        coded = encoding.lower() != "identity" and not name.lower().endswith((".gz", ".tgz"))
        total = None if coded else _total(answer, had)
        validator = "" if coded else _validator(answer)
        offset = had if answer.status_code == 206 else 0
        _remember(self.part, self.url, validator, name)
        room(self.part.parent, (total or offset) - offset, shown(self.url))
        try:
            with self.part.open("ab" if offset else "wb") as f:
                _copy(answer, f, coded, total or 0, offset, f"fetching {name}")
        except OSError as e:
            raise disk_error(e, f"{name} cannot be saved") from None
        got = _bytes(self.part)
        if total is not None and got != total:
            if got > total:
                self.part.unlink()
            raise _LostError(f"the connection ended after {got:,} of {total:,} bytes")
        return Downloaded(name, got, validator)


def _copy(answer: httpx.Response, f: IO[bytes], coded: bool, total: int, offset: int, what: str) -> None:
    with progress(total, what, "B") as bar:
        bar.update(offset)
        # As the pieces come: httpx would keep back, and lose with the connection, what does not fill a chunk.
        for chunk in answer.iter_bytes() if coded else answer.iter_raw():
            f.write(chunk)
            bar.update(len(chunk))


def _opened(client: httpx.Client, request: httpx.Request, budget_s: float) -> httpx.Response:
    """Send; headers must be there within `budget_s`.

    In a thread of its own, since neither a resolver that hangs nor a host with many dead addresses keeps to
    httpx's timeouts.
    """
    box: queue.SimpleQueue[httpx.Response | Exception] = queue.SimpleQueue()

    def send() -> None:
        try:
            box.put(client.send(request, stream=True))
        except Exception as e:  # raised again in the thread that waits
            box.put(e)

    threading.Thread(target=send, daemon=True).start()
    try:
        got = box.get(timeout=max(budget_s, 0.01))
    except queue.Empty:
        raise _LostError("no answer in time") from None
    if isinstance(got, Exception):
        raise got
    return got


def room(folder: Path, wanted: int, what: str) -> None:
    """Raise ResourceError when `wanted` bytes would not fit on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if wanted and wanted + SPARE_BYTES > free:
        raise ResourceError(
            f"no room for {what}",
            found=f"{size(wanted)} are to come, {size(free)} are free",
            next="free some, or put data/ on a larger disk",
        )


def _total(answer: httpx.Response, had: int) -> int | None:
    """The file's size as the server announces it; None when it does not."""
    if answer.status_code == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("content-range", "").strip())
        if not found or int(found[1]) != had:
            raise Unreachable("the server sends another part than was asked for", found=str(found and found[0]))
        return None if found[2] == "*" else int(found[2])
    length = answer.headers.get("content-length", "")
    return int(length) if length.isdigit() else None


def _validator(answer: httpx.Response) -> str:
    """What tells this version from others: a strong ETag, else the date, else nothing."""
    etag: str = answer.headers.get("etag", "")
    return etag if _is_etag(etag) else str(answer.headers.get("last-modified", ""))


def _is_etag(text: str) -> bool:
    return text.startswith('"')


def _memory(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _remember(part: Path, url: str, validator: str, name: str) -> None:
    said = {"url": shown(url), "validator": validator, "name": name}
    _memory(part).write_text(json.dumps(said), encoding="utf-8")


def _remembered(part: Path, url: str) -> tuple[str, str]:
    """Validator and name of what `part` holds the beginning of; ("", "") when nothing is known."""
    try:
        said = json.loads(_memory(part).read_text(encoding="utf-8"))
        return (str(said["validator"]), str(said["name"])) if said["url"] == shown(url) else ("", "")
    except (OSError, ValueError, KeyError, TypeError):
        return "", ""


def forget_memory(part: Path) -> None:
    """Remove the note beside a finished download."""
    _memory(part).unlink(missing_ok=True)


def forget(part: Path) -> None:
    """Remove what an unfinished download left."""
    part.unlink(missing_ok=True)
    forget_memory(part)


def _bytes(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _name(answer: httpx.Response, url: str) -> str:
    """A safe file name: what the server calls it, else the URL's last part, else the redirect's."""
    head = Message()
    head["content-disposition"] = answer.headers.get("content-disposition", "")
    names = [head.get_filename() or "", *(u.path.rpartition("/")[2] for u in (httpx.URL(url), answer.url))]
    clean = [re.sub(r"[^\w.()+ -]", "_", n.replace("\\", "/").rpartition("/")[2]).strip(" .")[-120:] for n in names]
    with_suffix = [n for n in clean if Path(n).suffix]
    return next(iter(with_suffix or [n for n in clean if n]), "data")


def _why(e: Exception) -> str:
    if isinstance(e, httpx.TimeoutException):
        return "no answer in time"
    return str(e) or type(e).__name__


def _unreachable(url: str, e: Exception, tries: int, got: int, advice: str) -> Unreachable:
    kept = f"; {size(got)} are kept, and the next try goes on from there" if got else ""
    times = "once" if tries == 1 else f"{tries} times"
    return Unreachable(f"{shown(url)} cannot be reached", found=f"tried {times}, last: {_why(e)}{kept}", next=advice)
