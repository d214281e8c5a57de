"""What /openapi.json says of the Open Inference Protocol's routes."""

from __future__ import annotations

from typing import Any

JSON, BYTES = "application/json", "application/octet-stream"
MODEL, VERSIONED = "/v2/models/{name}", "/v2/models/{name}/versions/{version}"


def paths() -> dict[str, Any]:
    """Path items, by path."""
    made = {
        "/v2": _get("v2_server", "The server's name, version and extensions", "name", "version", "extensions"),
        "/v2/health/live": _get("v2_live", "Does the process live? (V2)", "live"),
        "/v2/health/ready": _get("v2_ready", "May requests be sent? (V2)", "ready"),
        "/v2/models/stats": _get("v2_stats", "What all models answered, and how long it took", "model_stats"),
        "/v2/repository/index": {"post": _index()},
    }
    for base, suffix in ((MODEL, ""), (VERSIONED, "_version")):
        made |= {
            base: _get(f"v2_model{suffix}", "A model's inputs and outputs", "name", "versions", "inputs", "outputs"),
            f"{base}/ready": _get(f"v2_model_ready{suffix}", "Does a model answer?", "name", "ready"),
            f"{base}/config": _get(f"v2_model_config{suffix}", "A model as Triton describes it", "name", "input"),
            f"{base}/stats": _get(f"v2_model_stats{suffix}", "What a model answered", "model_stats"),
            f"{base}/infer": {"post": _infer(suffix)},
        }
    for path, operations in made.items():
        if "{name}" in path:
            names = ("name", "version") if "{version}" in path else ("name",)
            for operation in operations.values():
                operation.setdefault("parameters", [])[:0] = [_in_path(name) for name in names]
    return made


def _get(operation_id: str, summary: str, *members: str) -> dict[str, Any]:
    return {"get": _operation(operation_id, summary, _content({"type": "object", "required": list(members)}))}


def _operation(operation_id: str, summary: str, content: dict[str, Any]) -> dict[str, Any]:
    failed = {
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"type": "string", "examples": ["there is no model 'x'"]}},
    }
    return {
        "tags": ["Open Inference Protocol"],
        "operationId": operation_id,
        "summary": summary,
        "responses": {
            "200": {"description": "As the protocol has it", "content": content},
            "default": {"description": "An error", "content": _content(failed)},
        },
    }


def _content(schema: dict[str, Any]) -> dict[str, Any]:
    return {JSON: {"schema": schema}}


def _in_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _index() -> dict[str, Any]:
    line = {"type": "object", "required": ["name", "version", "state"]}
    return _operation("v2_index", "The models that are there", _content({"type": "array", "items": line}))


def _infer(suffix: str) -> dict[str, Any]:
    """The protocol's tensors, as JSON and as bytes behind it."""
    made = _operation(f"v2_infer{suffix}", "Run a model on a tensor", _content(_response()))
    made["responses"]["200"]["content"][BYTES] = {"schema": {"type": "string", "format": "binary"}}
    made["parameters"] = [
        {
            "name": "Inference-Header-Content-Length",
            "in": "header",
            "description": "Bytes of JSON at the body's beginning, where tensors follow as bytes",
            "schema": {"type": "integer", "minimum": 0},
        }
    ]
    made["requestBody"] = {
        "required": True,
        "content": {**_content(_request()), BYTES: {"schema": {"type": "string", "format": "binary"}}},
    }
    return made


def _request() -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string", "maxLength": 1024},
            "parameters": {"type": "object"},
            "inputs": {"type": "array", "minItems": 1, "maxItems": 1, "items": _tensor("x")},
            "outputs": {"type": "array", "maxItems": 1, "items": {"type": "object", "required": ["name"]}},
        },
    }


def _response() -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "outputs": {"type": "array", "items": _tensor("y")},
        },
    }


def _tensor(name: str) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["name", "shape", "datatype"],
        "properties": {
            "name": {"const": name},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
            "datatype": {"type": "string", "examples": ["UINT8", "FP32"]},
            "parameters": {"type": "object"},
            "data": {"type": "array", "description": "Flat, or nested as the shape is"},
        },
    }
