"""Every 4xx and 5xx as application/problem+json (RFC 9457): type, title, status, detail, instance, request_id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from proj.errors import Busy, ProjError
from proj.serve.reply import Reply

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 1
REQUEST_ID = "proj.request_id"  # where the application notes it in a scope's state


@dataclass(frozen=True)
class Kind:
    """A kind of problem: `slug` is its place on /docs, which `type` points at."""

    slug: str
    title: str
    meaning: str


KINDS = {
    400: Kind("bad-request", "The request cannot be read", "The body is not what its content type says."),
    401: Kind("no-key", "A key is needed", "Authorization: Bearer with a key of this server is missing or wrong."),
    403: Kind("foreign-page", "Refused: sent by another site's page", "Origin names another host than Host does."),
    404: Kind("not-found", "Nothing here", "There is no such path."),
    405: Kind("wrong-method", "Method not allowed", "The path exists, but takes the methods in the header Allow."),
    408: Kind("too-slow", "The upload stood still", "No byte came for longer than the server waits."),
    413: Kind("too-large", "Too large", "Too many bytes, inputs or pixels; the limits are in /model."),
    415: Kind("unsupported", "Not a kind of input that is taken", "Wrong content type, or a file of another kind."),
    421: Kind("wrong-host", "Not this server's name", "Host is not a name that the server answers to."),
    422: Kind("unreadable", "The input cannot be read", "Empty, broken, or not of the form that the model takes."),
    429: Kind("too-many", "Too many requests", "One key or address asked more often than it may; see Retry-After."),
    431: Kind("head-too-large", "Headers too large", "Request line and headers have more bytes than the server reads."),
    500: Kind("internal", "The server failed", "A fault of the server; its log says more."),
    503: Kind("busy", "Not now", "The queue is full, or the server is stopping; try again after Retry-After."),
}


def body(request_path: str, status: int, detail: str, request_id: str = "") -> dict[str, Any]:
    """A problem's members; `request_id` is left out where there is none."""
    # A status without a kind of its own is described by that of its class.
    kind = KINDS.get(status) or KINDS[400 if status < 500 else 500]
    made = {
        "type": f"/docs#{kind.slug}",
        "title": kind.title,
        "status": status,
        "detail": detail,
        "instance": request_path,
    }
    return {**made, "request_id": request_id} if request_id else made


def reply(
    request_path: str, status: int, detail: str, headers: Mapping[str, str] | None = None, request_id: str = ""
) -> Reply:
    """A problem as an answer. `request_path` becomes `instance`."""
    headers = {k.lower(): v for k, v in (headers or {}).items()}
    if status == 503:
        headers.setdefault("retry-after", str(RETRY_AFTER_S))
    content = orjson.dumps(body(request_path, status, detail, request_id))
    return Reply(status, content, MEDIA_TYPE.encode("ascii"), raw(headers))


def raw(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """As ASGI has headers."""
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


def of(error: ProjError, request_path: str, request_id: str = "") -> Reply:
    """What an error of proj's own says to a client; one that is the server's fault tells no more than that."""
    if error.http_status >= 500 and not isinstance(error, Busy):
        from loguru import logger

        logger.error("request {}: {}", request_id, error)
        return reply(request_path, error.http_status, "the server cannot answer; its log says why", None, request_id)
    return reply(request_path, error.http_status, str(error), None, request_id)


def bug(request_path: str, request_id: str = "") -> Reply:
    """What a client hears of a fault in the server: it ends the connection, whose state nobody knows."""
    headers = {"connection": "close"}
    return reply(request_path, 500, "a fault of the server; its log says more", headers, request_id)
