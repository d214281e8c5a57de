"""Every 4xx and 5xx as application/problem+json (RFC 9457): type, title, status, detail, instance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from proj.errors import Busy, ProjError

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 1


@dataclass(frozen=True)
class Kind:
    """A kind of problem: `slug` is its place on /docs, which `type` points at."""

    slug: str
    title: str
    meaning: str


KINDS = {
    400: Kind("bad-request", "The request cannot be read", "The body is not what its content type says."),
    403: Kind("foreign-page", "Refused: sent by another site's page", "Origin names another host than Host does."),
    404: Kind("not-found", "Nothing here", "There is no such path."),
    405: Kind("wrong-method", "Method not allowed", "The path exists, but takes the methods in the header Allow."),
    408: Kind("too-slow", "The upload stood still", "No byte came for longer than the server waits."),
    413: Kind("too-large", "Too large", "Too many bytes, inputs or pixels; the limits are in /model."),
    415: Kind("unsupported", "Not a kind of input that is taken", "Wrong content type, or a file of another kind."),
    421: Kind("wrong-host", "Not this server's name", "Host is not a name that the server answers to."),
    422: Kind("unreadable", "The input cannot be read", "Empty, broken, or not of the form that the model takes."),
    500: Kind("internal", "The server failed", "A fault of the server; its log says more."),
    503: Kind("busy", "Not now", "The queue is full, or the server is stopping; try again after Retry-After."),
}


def body(request_path: str, status: int, detail: str) -> dict[str, Any]:
    """The five members of a problem."""
    # A status without a kind of its own is described by that of its class.
    kind = KINDS.get(status) or KINDS[400 if status < 500 else 500]
    return {
        "type": f"/docs#{kind.slug}",
        "title": kind.title,
        "status": status,
        "detail": detail,
        "instance": request_path,
    }


def response(request_path: str, status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """A problem as a response. `request_path` becomes `instance`."""
    headers = dict(headers or {})
    if status == 503:
        headers.setdefault("Retry-After", str(RETRY_AFTER_S))
    return JSONResponse(body(request_path, status, detail), status, headers=headers, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Answer every error of `app` with a problem, FastAPI's own included."""
    app.add_exception_handler(ProjError, _proj_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _bug)


async def _proj_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProjError)
    if error.http_status >= 500 and not isinstance(error, Busy):
        _log(request, error)
        return response(request.url.path, error.http_status, "the server cannot answer; its log says why")
    return response(request.url.path, error.http_status, str(error))


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path, allowed = request.url.path, (error.headers or {}).get("Allow", "")
    if error.status_code == 404:
        detail = f"nothing at {path}; / is the page, /docs describes the API"
    elif error.status_code == 405:
        detail = f"{request.method} is not possible on {path}; {allowed} is"
    else:
        detail = str(error.detail)
    return response(path, error.status_code, detail, error.headers)


async def _validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(map(str, first.get("loc", ())))
    return response(request.url.path, 422, f"{where}: {first.get('msg', 'not valid')}")


async def _gone(request: Request, _: Exception) -> Response:
    return response(request.url.path, 400, "the connection ended within the upload")  # nobody is left to read it


async def _bug(request: Request, _: Exception) -> Response:
    # Starlette raises it again after this answer; uvicorn logs it with its traceback and ends the connection,
    # which the client must know, or its next request would be lost.
    headers = {"Connection": "close"}
    return response(request.url.path, 500, "a fault of the server; its log says more", headers)


def _log(request: Request, error: ProjError) -> None:
    from loguru import logger

    logger.error("{} {}: {}", request.method, request.url.path, error)
