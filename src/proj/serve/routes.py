"""The routes that FastAPI answers: how the server is, what it serves, its numbers, and the page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.responses import FileResponse, JSONResponse, Response

from proj.errors import Busy
from proj.serve import schemas
from proj.serve.metrics import MEDIA_TYPE as METRICS_TYPE

if TYPE_CHECKING:
    from proj.serve.app import App
    from proj.serve.settings import Settings
    from proj.serve.slots import Slot

PAGE = Path(__file__).parent / "page"
STATIC = "/page/"
Handler = Callable[..., Awaitable[Response]]


def add(api: FastAPI, app: App) -> None:
    """All of them; with one model its routes have no name before them too."""
    _add_state(api, app)
    for name, slot in app.slots.items():
        _add_model(api, app, slot, f"/{name}", in_schema=len(app.slots) > 1)
    if len(app.slots) == 1:
        _add_model(api, app, next(iter(app.slots.values())), "", in_schema=True)
    else:
        api.add_api_route("/", _file(PAGE / "models.html"), include_in_schema=False)
    api.add_api_route("/docs", _file(PAGE / "docs.html"), include_in_schema=False)
    for path in PAGE.iterdir():
        if path.suffix in {".js", ".css", ".svg"}:
            api.add_api_route(STATIC + path.name, _file(path), include_in_schema=False)


def _add_state(api: FastAPI, app: App) -> None:
    @api.get("/health", response_model=schemas.Health, summary="Does the process live?", operation_id="health")
    async def health() -> Response:
        return JSONResponse({"status": "ok"})

    @api.get("/ready", response_model=schemas.Ready, summary="May requests be sent?", operation_id="ready")
    async def ready() -> Response:
        """503 while models are being loaded and while the server is stopping: a load balancer asks others then."""
        if not app.is_ready:
            raise Busy("the server is stopping" if app.draining else "a model is being loaded")
        served = [slot.manifest.model for slot in app.slots.values()]
        return JSONResponse({"status": "ready", "model": served[0], "models": served})

    @api.get("/models", response_model=schemas.Served, summary="Which models are there?", operation_id="models")
    async def models() -> Response:
        """Each model's name is where its routes are: /NAME/predict, /NAME/model, and its page at /NAME/."""
        return JSONResponse({"models": [_line(slot) for slot in app.slots.values()]})

    @api.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
        summary="Numbers for Prometheus",
        operation_id="metrics",
    )
    def numbers() -> Response:
        return Response(app.metrics.text(), headers={"Content-Type": METRICS_TYPE})


def _line(slot: Slot) -> dict[str, Any]:
    m = slot.manifest
    return {"name": slot.name, "title": m.title, "question": m.question, "model": m.model, "modality": m.modality}


def _add_model(api: FastAPI, app: App, slot: Slot, base: str, *, in_schema: bool) -> None:
    async def which() -> Response:
        """What the bundle says of itself: names, units, metrics, preprocessing, and the server's limits."""
        return JSONResponse(facts(slot, app.settings))

    api.add_api_route(
        f"{base}/model",
        which,
        response_model=schemas.ModelFacts,
        summary="Which model answers?",
        operation_id=f"{slot.name}_model" if base else "model",
        include_in_schema=in_schema,
    )
    api.add_api_route(f"{base}/", _page(below=bool(base)), include_in_schema=False)


def facts(slot: Slot, settings: Settings) -> dict[str, Any]:
    """What /model tells."""
    m = slot.manifest
    limits = schemas.Limits(
        max_upload_mb=settings.max_upload_mb, max_inputs=settings.max_inputs, max_pixels=settings.max_pixels
    )
    made = schemas.ModelFacts(
        **m.model_dump(exclude={"schema_version", "example", "serve", "files"}),
        model=m.model,
        engine=f"{settings.engine} {settings.precision}",
        threshold=m.serve.threshold,
        warning=m.warning,
        limits=limits,
    )
    return made.model_dump(mode="json")


def _page(*, below: bool) -> Handler:
    """A model's page; one folder further down, its files are where they were."""
    content = (PAGE / "index.html").read_bytes()
    if below:
        content = content.replace(b'="page/', b'="../page/')

    async def send() -> Response:
        return Response(content, headers={"Cache-Control": "no-cache"}, media_type="text/html")

    return send


def _file(path: Path) -> Handler:
    async def send() -> Response:
        return FileResponse(path, headers={"Cache-Control": "no-cache"})  # its ETag still saves the transfer

    return send
