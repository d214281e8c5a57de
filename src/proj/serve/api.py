"""FastAPI's part of the server: every route but those that answer inputs, and its errors as problems.

Importing it takes as long as all else that a server needs to answer inputs, so it is imported when that is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from proj.errors import ProjError
from proj.serve import openapi, problems, routes

if TYPE_CHECKING:
    from proj.serve.app import App
    from proj.serve.reply import Reply


def build(app: App) -> FastAPI:
    """The application for what `app` does not answer itself."""
    api = FastAPI(
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # it would answer /predict/ with a redirect instead of a 404
    )
    _install_problems(api)
    routes.add(api, app)
    openapi.install(api, app)
    return api


def _install_problems(api: FastAPI) -> None:
    """Answer every error of `api` with a problem, FastAPI's own included."""
    api.add_exception_handler(ProjError, _proj_error)
    api.add_exception_handler(HTTPException, _http_exception)
    api.add_exception_handler(RequestValidationError, _validation)


def _problem(request: Request, status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    made = problems.reply(
        request.url.path, status, detail, headers, request.scope["state"].get(problems.REQUEST_ID, "")
    )
    return _starlette(made)


def _starlette(made: Reply) -> Response:
    headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in made.headers}
    return Response(made.body, made.status, headers, made.media_type.decode("ascii"))


async def _proj_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProjError)
    return _starlette(problems.of(error, request.url.path, request.scope["state"].get(problems.REQUEST_ID, "")))


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path, allowed = request.url.path, (error.headers or {}).get("Allow", "")
    if error.status_code == 404:
        detail = f"nothing at {path}; / is the page, /docs describes the API"
    elif error.status_code == 405:
        detail = f"{request.method} is not possible on {path}; {allowed} is"
    else:
        detail = str(error.detail)
    return _problem(request, error.status_code, detail, error.headers)


async def _validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(map(str, first.get("loc", ())))
    return _problem(request, 422, f"{where}: {first.get('msg', 'not valid')}")
