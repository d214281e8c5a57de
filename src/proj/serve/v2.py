"""The Open Inference Protocol, version 2, over REST: what KServe and Triton's clients speak.

A model is its slot; its version is the manifest's, and only the one that is served now is there. Errors are in the
protocol's own form, {"error": "..."}. What is not offered (shared memory, loading and unloading, tracing) is a 404.
"""

from __future__ import annotations

import asyncio
import traceback
import zlib
from functools import cache
from typing import TYPE_CHECKING, Any

import orjson
from loguru import logger

from proj.errors import BadRequest, Busy, InputError, InputTooLarge, ProjError, UnsupportedInput
from proj.serve import problems, v2_tensors
from proj.serve.answer import asked_timeout_s
from proj.serve.connection import HungUp
from proj.serve.families import BATCH, PARTS
from proj.serve.reply import Reply
from proj.serve.upload import INLINE_JSON, PARSING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proj.infer import Model
    from proj.serve.app import App
    from proj.serve.body import Body
    from proj.serve.connection import Connection
    from proj.serve.head import Head
    from proj.serve.slots import Slot
    from proj.serve.v2_tensors import Asked, Form

EXTENSIONS = ["binary_tensor_data", "classification", "model_configuration", "statistics"]
# As Triton calls them: a platform, and the backend that is behind it.
PLATFORMS = {"onnxruntime": ("onnxruntime_onnx", "onnxruntime"), "openvino": ("openvino", "openvino")}
HEADER_LENGTH = b"inference-header-content-length"
INLINE_BYTES = 1_000_000  # of tensors that are read on the event loop
WBITS = {"gzip": 31, "deflate": 15}


class _Refused(Exception):
    """What the path or the method alone decides."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


async def answer(app: App, head: Head, body: Body, asker: Connection) -> tuple[Reply, str]:
    """The answer, whatever comes, and the model that gave it as name@version, "" for none. Raises HungUp alone."""
    template, name, version, action = _route(head.path)
    method = "POST" if action in {"infer", "index"} else "GET"
    try:
        if not template:
            raise _Refused(404, f"nothing at {head.path[:200]}")
        if head.method != method and not (method == "GET" and head.method == "HEAD"):
            raise _Refused(405, f"{head.method} is not possible here; {method} is")
        slot = _slot(app, name, version)
        if slot is None:
            return _of_server(app, action), ""
        if action == "infer":
            return await _infer(app, slot, version, head, body, asker)
        return _of_model(app, slot, action), ""
    except _Refused as e:
        return error(e.status, str(e), {"allow": method} if e.status == 405 else {}), ""
    except ProjError as e:
        return _failed(e), ""
    except HungUp:
        raise
    except Exception as e:  # the model's own too; as text, since values would be people's data
        logger.error("{}: {}\n{}", template, type(e).__name__, "".join(traceback.format_tb(e.__traceback__)))
        return error(500, "a fault of the server; its log says more", {"connection": "close"}), ""


def pattern(path: str) -> str:
    """The route of a path, "" where there is none."""
    return _route(path)[0]


def is_path(path: str) -> bool:
    """Is it one of the protocol's?"""
    return path == "/v2" or path.startswith("/v2/")


def error(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Reply:
    """An error in the protocol's form."""
    headers = {k.lower(): v for k, v in (headers or {}).items()}
    if status == 503:
        headers.setdefault("retry-after", str(problems.RETRY_AFTER_S))
    return Reply(status, orjson.dumps({"error": detail}), headers=problems.raw(headers))


def _failed(e: ProjError) -> Reply:
    if e.http_status >= 500 and not isinstance(e, Busy):
        logger.error("{}", e)
        return error(e.http_status, "the server cannot answer; its log says why")
    return error(400 if e.http_status == 422 else e.http_status, str(e))


def _route(path: str) -> tuple[str, str, str, str]:
    """Pattern, model, version and what is asked; no pattern: there is no such path."""
    match path.split("/")[2:]:
        case []:
            return "/v2", "", "", "server"
        case ["health", "live" | "ready" as what]:
            return path, "", "", what
        case ["repository", "index"]:
            return path, "", "", "index"
        case ["models", "stats"]:
            return path, "", "", "stats"
        case ["models", name, "versions", version, *rest]:
            template = "/v2/models/{name}/versions/{version}"
        case ["models", name, *rest]:
            template, version = "/v2/models/{name}", ""
        case _:
            return "", "", "", ""
    match rest:
        case []:
            return template, name, version, "model"
        case ["ready" | "infer" | "config" | "stats" as action]:
            return f"{template}/{action}", name, version, action
    return "", "", "", ""


def _slot(app: App, name: str, version: str) -> Slot | None:
    """None where the whole server is asked. Raises _Refused."""
    if not name:
        return None
    slot = app.slots.get(name)
    if slot is None:
        raise _Refused(404, f"there is no model {name[:100]!r}; served are {', '.join(app.slots)}")
    if version and slot.manifest.version != version:
        served = slot.manifest.version
        raise _Refused(404, f"the model {name!r} has no version {version[:100]!r}; served is {served!r}")
    return slot


def _of_server(app: App, what: str) -> Reply:
    if what == "ready" and not app.is_ready:
        return error(503, "the server is stopping" if app.draining else "a model is being loaded")
    if what in {"live", "ready"}:
        return _json({"live" if what == "live" else "ready": True})
    if what == "index":
        return _json([_line(slot) for slot in app.slots.values()])
    if what == "stats":
        return _json({"model_stats": _statistics(app, app.slots.values())})
    return _json({"name": "proj", "version": _version(), "extensions": EXTENSIONS})


def _of_model(app: App, slot: Slot, what: str) -> Reply:
    if what == "ready":
        if slot.model is None or app.draining:
            return error(503, "the server is stopping" if app.draining else "the model is being loaded")
        return _json({"name": slot.name, "ready": True})
    if what == "config":
        return _json(_config(app, slot))
    if what == "stats":
        return _json({"model_stats": _statistics(app, [slot])})
    form, names = v2_tensors.form(slot.manifest.spec), slot.manifest.names
    return _json(
        {
            "name": slot.name,
            "versions": [slot.manifest.version],
            "platform": PLATFORMS[app.settings.engine][0],
            "inputs": [{"name": v2_tensors.INPUT, "datatype": form.datatype, "shape": form.shape}],
            "outputs": [{"name": v2_tensors.OUTPUT, "datatype": "FP32", "shape": [-1, len(names)]}],
        }
    )


def _line(slot: Slot) -> dict[str, str]:
    ready = slot.model is not None
    line = {"name": slot.name, "version": slot.manifest.version, "state": "READY" if ready else "LOADING"}
    return line if ready else {**line, "reason": "the model is being loaded"}


def _config(app: App, slot: Slot) -> dict[str, Any]:
    """As Triton describes a model: "dims" without the batch."""
    form, (platform, backend) = v2_tensors.form(slot.manifest.spec), PLATFORMS[app.settings.engine]
    return {
        "name": slot.name,
        "platform": platform,
        "backend": backend,
        "max_batch_size": app.settings.max_inputs,
        "input": [{"name": v2_tensors.INPUT, "data_type": f"TYPE_{form.datatype}", "dims": list(form.dims)}],
        "output": [{"name": v2_tensors.OUTPUT, "data_type": "TYPE_FP32", "dims": [len(slot.manifest.names)]}],
    }


def _statistics(app: App, slots: Any) -> list[dict[str, Any]]:
    """What was answered under each name since the server began, in all workers, by every way in."""
    totals = app.metrics.totals()

    def spent(name: str, part: str) -> dict[str, int]:
        *counts, seconds = totals.get((PARTS, (name, part)), [0.0])
        return {"count": int(sum(counts)), "ns": int(seconds * 1e9)}

    made = []
    for slot in slots:
        *runs, inputs = totals.get((BATCH, (slot.name,)), [0.0])
        queue, decode, run, encode = (spent(slot.name, part) for part in ("queue", "decode", "run", "encode"))
        whole = {"count": run["count"], "ns": queue["ns"] + decode["ns"] + run["ns"] + encode["ns"]}
        parts = {"queue": queue, "compute_input": decode, "compute_infer": run, "compute_output": encode}
        made.append(
            {
                "name": slot.name,
                "version": slot.manifest.version,
                "inference_count": int(inputs),
                "execution_count": int(sum(runs)),
                "inference_stats": {"success": whole, **parts},
            }
        )
    return made


@cache
def _version() -> str:
    from importlib.metadata import version

    return version("proj")


def _json(content: Any) -> Reply:
    return Reply(200, orjson.dumps(content))


async def _infer(app: App, slot: Slot, version: str, head: Head, body: Body, asker: Connection) -> tuple[Reply, str]:
    model = slot.take()
    app.queue.check_room()  # before megabytes are read for nothing
    form = v2_tensors.form(model.spec, model.tokenizer)
    by_header_s = asked_timeout_s(head)
    asked = await _read(await body.whole(), head, form, app)
    timeout_s = min(asked.timeout_s or by_header_s, by_header_s or asked.timeout_s)
    try:
        model, y = await app.queue.run(slot, asked.x, timeout_s=timeout_s, asker=asker)
    except ProjError:
        raise
    except Exception:
        # A newer model may have come while this waited, that takes other tensors than the one it was checked for.
        if slot.model is model:
            raise
        raise Busy("the model was replaced meanwhile", next="try again") from None
    if version and model.manifest.version != version:
        raise _Refused(404, f"the model {slot.name!r} has no version {version!r} any more")
    return _reply(asked, slot, model, y), model.manifest.model


def _reply(asked: Asked, slot: Slot, model: Model, y: Any) -> Reply:
    content, header_length = v2_tensors.write(asked, slot.name, model.manifest, y)
    if header_length is None:
        return Reply(200, content)
    return Reply(200, content, b"application/octet-stream", [(HEADER_LENGTH, b"%d" % header_length)])


async def _read(raw: bytes, head: Head, form: Form, app: App) -> Asked:
    """What the body asks, read beside the event loop where it is large. Raises InputError's kinds."""
    length, encoding = _header_length(head), head.encoding
    json_bytes = len(raw) if length is None else length
    if not encoding and json_bytes <= INLINE_JSON and len(raw) <= INLINE_BYTES:
        return v2_tensors.read(raw, length, form, app.settings.max_inputs)

    def read() -> Asked:
        with PARSING:
            content = _decompressed(raw, encoding, app.settings.max_upload_bytes)
            return v2_tensors.read(content, length, form, app.settings.max_inputs)

    return await asyncio.to_thread(read)


def _header_length(head: Head) -> int | None:
    given = head.values.get(HEADER_LENGTH)
    if given is None:
        return None
    if not given.isdigit() or len(given) > 12:
        raise BadRequest("Inference-Header-Content-Length is no number", found=repr(given[:40]))
    return int(given)


def _decompressed(raw: bytes, encoding: str, max_bytes: int) -> bytes:
    """What was sent compressed, up to the size that an upload may have."""
    if not encoding:
        return raw
    if encoding not in WBITS:
        raise UnsupportedInput(f"content encoding {encoding[:40]!r} is not taken", found=f"{', '.join(WBITS)} are")
    reader = zlib.decompressobj(WBITS[encoding])
    try:
        content = reader.decompress(raw, max_bytes + 1)
    except zlib.error as e:
        raise BadRequest(f"the body is not {encoding}", found=str(e)) from None
    if len(content) > max_bytes:
        raise InputTooLarge("the body is too large when unpacked", found=f"the limit is {max_bytes / 1e6:g} MB")
    if not reader.eof or reader.unused_data:
        raise InputError(f"the body is not one whole {encoding} stream")
    return content
