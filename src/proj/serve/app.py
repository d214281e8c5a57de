"""The HTTP application on one loaded model: the routes; what they do is in the other files of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import FileResponse, JSONResponse, Response

from proj import infer
from proj.errors import InputError, ProjError
from proj.serve import describe, guard, problems, schemas, upload
from proj.serve.metrics import MEDIA_TYPE as METRICS_TYPE
from proj.serve.metrics import Metrics, Observed
from proj.serve.queue import Outcome, Queue
from proj.serve.settings import Settings

PAGE = Path(__file__).parent / "page"
PAGE_FILES = {
    "": "index.html",
    "docs": "docs.html",
    "page/page.js": "page.js",
    "page/answer.js": "answer.js",
    "page/dom.js": "dom.js",
    "page/draw.js": "draw.js",
    "page/photo.js": "photo.js",
    "page/series.js": "series.js",
    "page/table.js": "table.js",
    "page/text.js": "text.js",
    "page/docs.js": "docs.js",
    "page/page.css": "page.css",
    "page/icon.svg": "icon.svg",
}


def create(model: infer.Model, settings: Settings) -> FastAPI:
    """An application that answers with `model`, as `settings` tell. `app.state.draining = True` turns /ready to 503."""
    model = _told(model, settings)
    manifest = model.manifest
    metrics = Metrics(manifest)
    queue = Queue(model, settings, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        queue.start()
        yield
        queue.close()

    app = FastAPI(
        title=manifest.title,
        version=manifest.version,
        description=f"{manifest.question} Answers come from the model {manifest.model}.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # it would answer /predict/ with a redirect instead of a 404
        lifespan=lifespan,
    )
    app.state.draining = False
    problems.install(app)
    app.add_middleware(guard.Guard, host=settings.host, allow_host=settings.allow_host)
    app.add_middleware(Observed, metrics=metrics)  # added last: outermost, so that refusals are counted too
    _add_predict(app, queue, model, settings)
    _add_state(app, model, settings, metrics)
    _add_page(app)
    _describe_problems(app)
    return app


def _told(model: infer.Model, settings: Settings) -> infer.Model:
    """The model with the threshold that the settings ended in: `infer.encode` reads the manifest's."""
    serve = model.manifest.serve.model_copy(update={"threshold": settings.threshold})
    return replace(model, manifest=model.manifest.model_copy(update={"serve": serve}))


def _add_predict(app: FastAPI, queue: Queue, model: infer.Model, settings: Settings) -> None:
    manifest = model.manifest
    classes, word = manifest.kind == "classes", describe.word(manifest)
    one: Any = schemas.ClassAnswer if classes else schemas.ValuesAnswer
    several: Any = schemas.ClassAnswers if classes else schemas.ValuesAnswers

    @app.post(
        "/predict",
        response_model=one | several,
        response_model_exclude_unset=True,
        summary=f"Answer one or several {word}s",
        description=describe.answers(manifest),
        operation_id="predict",
        openapi_extra={"requestBody": describe.request_body(manifest)},
    )
    async def predict(request: Request) -> Response:
        body = guard.Body(request, max_bytes=settings.max_upload_bytes, idle_s=settings.idle_s)
        try:
            queue.check_room()
            content_type = request.headers.get("content-type")
            sent = await upload.read(body, content_type, manifest.modality, model.spec, settings.max_inputs)
        except ProjError:
            await body.discard()
            raise
        outcomes = await queue.answers(sent.inputs)
        if sent.many:
            pairs = zip(sent.inputs, outcomes, strict=True)
            return JSONResponse({"predictions": [_or_error(i, o) for i, o in pairs]})
        if isinstance(outcomes[0], InputError):
            raise outcomes[0]
        return JSONResponse(outcomes[0])


def _or_error(item: upload.Input, outcome: Outcome) -> dict[str, Any]:
    return {"input": item.name, "error": str(outcome)} if isinstance(outcome, ProjError) else outcome


def _add_state(app: FastAPI, model: infer.Model, settings: Settings, metrics: Metrics) -> None:
    manifest = model.manifest
    facts = schemas.ModelFacts(
        **manifest.model_dump(exclude={"schema_version", "example", "serve"}),
        model=manifest.model,
        threshold=manifest.serve.threshold,
        warning=manifest.warning,
        limits=schemas.Limits(
            max_upload_mb=settings.max_upload_mb,
            max_inputs=settings.max_inputs,
            max_pixels=settings.max_pixels,
        ),
    )

    @app.get("/health", response_model=schemas.Health, summary="Does the process live?", operation_id="health")
    async def health() -> Response:
        return JSONResponse({"status": "ok"})

    @app.get("/ready", response_model=schemas.Ready, summary="May requests be sent?", operation_id="ready")
    async def ready(request: Request) -> Response:
        """503 while the server is stopping: a load balancer then sends requests elsewhere."""
        if app.state.draining:
            return problems.response(request.url.path, 503, "the server is stopping")
        return JSONResponse({"status": "ready", "model": manifest.model})

    @app.get("/model", response_model=schemas.ModelFacts, summary="Which model answers?", operation_id="model")
    async def which() -> Response:
        """What the bundle says of itself: names, units, metrics, preprocessing, and the server's limits."""
        return JSONResponse(facts.model_dump(mode="json"))

    @app.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
        summary="Numbers for Prometheus",
        operation_id="metrics",
    )
    def numbers() -> Response:
        return Response(metrics.text(), headers={"Content-Type": METRICS_TYPE})


def _add_page(app: FastAPI) -> None:
    for path, name in PAGE_FILES.items():
        app.add_api_route(f"/{path}", _file(PAGE / name), methods=["GET"], include_in_schema=False)


def _file(path: Path) -> Any:
    async def send() -> Response:
        return FileResponse(path, headers={"Cache-Control": "no-cache"})  # its ETag still saves the transfer

    return send


def _describe_problems(app: FastAPI) -> None:
    """Say in /openapi.json that every operation can end in a problem, and what kinds there are."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = make()
            schema["components"]["schemas"]["Problem"] = schemas.Problem.model_json_schema()
            reference = {"schema": {"$ref": "#/components/schemas/Problem"}}
            for operations in schema["paths"].values():
                for operation in operations.values():
                    operation["responses"]["default"] = {
                        "description": "A problem",
                        "content": {problems.MEDIA_TYPE: reference},
                    }
            schema["x-problems"] = [
                {"status": status, "slug": k.slug, "title": k.title, "meaning": k.meaning}
                for status, k in problems.KINDS.items()
            ]
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
