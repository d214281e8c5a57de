"""Requests as bytes, and what became of them: what a load (see `load`) sends and gives back."""

from __future__ import annotations

import http.client
import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np

BROKEN, UNANSWERED = 0, -1  # in place of a status: the connection ended first; no answer came in all the time

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Result:
    """Of every request that ended after the warm-up: when it was due and when it ended, and its status.

    Times are seconds from the warm-up's end; in a closed loop a request is due when it is sent. `status` may also be
    BROKEN or UNANSWERED. `retry_after`: answers of 503 that had the header.
    """

    seconds: float
    due_s: Array
    ended_s: Array
    status: Array
    retry_after: int
    cpu_s: float

    @property
    def statuses(self) -> dict[int, int]:
        """How often each came."""
        return dict(sorted(Counter(self.status.tolist()).items()))

    @property
    def per_second(self) -> float:
        """Answers of 200 a second, of those that came within the time."""
        return float(((self.status == 200) & (self.ended_s <= self.seconds)).sum()) / self.seconds

    @property
    def failed(self) -> int:
        """Requests that got neither 200 nor 503."""
        return int(((self.status != 200) & (self.status != 503)).sum())

    def latency_s(self, quantile: float, status: int = 200) -> float:
        """Of the answers with that status; nan where there are none."""
        found = (self.ended_s - self.due_s)[self.status == status]
        return float(np.quantile(found, quantile)) if len(found) else float("nan")

    def content(self) -> dict[str, Any]:
        """The figures, as JSON takes them."""
        ms = {f"p{q:g}_ms": round(1000 * self.latency_s(q / 100), 3) for q in (50, 90, 99)} if self.per_second else {}
        return {"requests": len(self.status), "per_second": round(self.per_second, 2), **ms,
                "statuses": {str(k): n for k, n in self.statuses.items()}, "retry_after": self.retry_after,
                "cpu_ms_per_request": round(1000 * self.cpu_s / max(1, len(self.status)), 4)}  # fmt: skip


def post(
    url: str, body: bytes, content_type: str, *, path: str = "/predict", headers: Sequence[tuple[str, str]] = ()
) -> bytes:
    """A request as it goes over the wire."""
    head = {"Host": urlsplit(url).netloc, "Content-Type": content_type, "Content-Length": str(len(body))}
    lines = [f"POST {path} HTTP/1.1", *(f"{k}: {v}" for k, v in (*head.items(), *headers))]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def form(url: str, body: bytes, *, path: str = "/predict", field_name: str = "file", name: str = "photo.jpg") -> bytes:
    """A file sent as browsers send it."""
    boundary = "4cd9a1c0f1f24b6e"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{field_name}"; filename="{name}"\r\n'
    sent = f"{head}Content-Type: image/jpeg\r\n\r\n".encode() + body + f"\r\n--{boundary}--\r\n".encode()
    return post(url, sent, f"multipart/form-data; boundary={boundary}", path=path)


def ask(url: str, request: bytes, limit_s: float = 30.0) -> tuple[int, bytes]:
    """One request on a connection of its own: status and body of its answer. Raises OSError."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 80), limit_s) as s:
        s.sendall(request)
        answer = http.client.HTTPResponse(s)
        try:
            answer.begin()
            return answer.status, answer.read()
        except http.client.HTTPException as e:
            raise OSError(f"no answer: {e}") from None
