"""What /openapi.json says: FastAPI's own routes, those that answer inputs, and that all can end in a problem."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from proj.serve import answer, describe, guard, problems, schemas, v2_openapi

if TYPE_CHECKING:
    from proj.serve.app import App
    from proj.serve.slots import Slot, Slots

REFERENCE = "#/components/schemas/{model}"


def about(slots: Slots) -> tuple[str, str]:
    """Title and description of the API."""
    if len(slots) == 1:
        (only,) = (slot.manifest for slot in slots.values())
        return only.title, f"{only.question} Answers come from the model {only.model}."
    lines = [f"- `{name}`: {slot.manifest.title} ({slot.manifest.question})" for name, slot in slots.items()]
    return "Models", "Each model answers at /NAME/predict.\n\n" + "\n".join(lines)


def install(api: FastAPI, app: App) -> None:
    """Let /openapi.json tell of everything, and of the models that answer now."""
    made: dict[tuple[str, ...], dict[str, Any]] = {}

    def openapi() -> dict[str, Any]:
        models = tuple(slot.manifest.model for slot in app.slots.values())
        if models not in made:
            made.clear()
            api.title, api.description = about(app.slots)
            api.version = next(iter(app.slots.values())).manifest.version
            api.openapi_schema = None  # FastAPI's own copy
            made[models] = _whole(api, app)
        return made[models]

    api.openapi = openapi  # type: ignore[method-assign]


def _whole(api: FastAPI, app: App) -> dict[str, Any]:
    schema: dict[str, Any] = FastAPI.openapi(api)
    components = schema.setdefault("components", {}).setdefault("schemas", {})
    components.update(_schemas())
    one = len(app.slots) == 1
    answering = {
        "/predict" if one else f"/{name}/predict": {"post": _predict(slot, one=one)} for name, slot in app.slots.items()
    }
    schema["paths"] = {**answering, **schema["paths"], **v2_openapi.paths()}
    problem = {"schema": {"$ref": REFERENCE.format(model="Problem")}}
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            if not path.startswith("/v2"):  # whose errors have a form of their own
                operation["responses"]["default"] = {
                    "description": "A problem",
                    "content": {problems.MEDIA_TYPE: problem},
                }
    schema["x-problems"] = [
        {"status": status, "slug": k.slug, "title": k.title, "meaning": k.meaning}
        for status, k in problems.KINDS.items()
    ]
    if app.settings.keys:
        components_ = schema["components"]
        components_["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{"key": []}]
        for path in guard.PROBES:
            schema["paths"][path]["get"]["security"] = []
    return schema


def _schemas() -> dict[str, Any]:
    kinds = (schemas.ClassAnswer, schemas.ClassAnswers, schemas.ValuesAnswer, schemas.ValuesAnswers, schemas.Problem)
    _, made = models_json_schema([(k, "serialization") for k in kinds], ref_template=REFERENCE)
    definitions: dict[str, Any] = made["$defs"]
    return definitions


def _predict(slot: Slot, *, one: bool) -> dict[str, Any]:
    m = slot.manifest
    kind, word = ("Class" if m.kind == "classes" else "Values"), describe.word(m)
    answers = [{"$ref": REFERENCE.format(model=f"{kind}Answer{s}")} for s in ("", "s")]
    return {
        "summary": f"Answer one or several {word}s",
        "description": describe.answers(m),
        "operationId": "predict" if one else f"{slot.name}_predict",
        "parameters": [
            {
                "name": answer.TOP,
                "in": "query",
                "description": "Only so many of the most probable classes",
                "schema": {"type": "integer", "minimum": 1},
            },
            {
                "name": "X-Timeout-Ms",
                "in": "header",
                "description": "How long the client is ready to wait, in milliseconds",
                "schema": {"type": "integer", "minimum": 1},
            },
        ],
        "requestBody": describe.request_body(m),
        "responses": {
            "200": {
                "description": "The answer, or the answers in their order",
                "content": {"application/json": {"schema": {"anyOf": answers}}},
            }
        },
    }
