"""From a request's body to inputs: a form's parts, one input's raw bytes, or JSON."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from multipart import parse_options_header

from proj.errors import InputError, UnsupportedInput
from proj.serve import form, json_body

if TYPE_CHECKING:
    from proj.preprocess.spec import Modality, Spec
    from proj.serve.body import Body

RAW_NAME = "body"
JSON_TYPE = "application/json"
# What one input may come as when it is the whole body; the first is taken where nothing is declared
# (RFC 9110 8.3: a body without a type may be looked into).
RAW_TYPES: dict[Modality, tuple[str, ...]] = {
    "image": ("application/octet-stream", "image/*"),
    "text": ("text/plain",),
    "series": ("application/octet-stream", "text/csv"),
}
INLINE_JSON = 65_536  # bytes that are read on the event loop: above, others would wait for it
PARSING = threading.Lock()  # of large bodies one at a time: it needs the interpreter, and much memory
CHARSETS = frozenset({"", "utf-8", "utf8", "us-ascii", "ascii"})


@dataclass(frozen=True, slots=True)
class Input:
    """One input as it came, and its name for the answer. `content` is an error where it could not be told apart."""

    name: str
    content: json_body.Content | InputError


@dataclass(frozen=True, slots=True)
class Upload:
    """A request's inputs, at least one; `many`: they are answered as a list."""

    inputs: list[Input]
    many: bool = False


async def read(body: Body, content_type: str | None, modality: Modality, spec: Spec, max_inputs: int) -> Upload:
    """All inputs of a request; a single one is not empty and not an error.

    Raises UnsupportedInput (content type), BadRequest (broken multipart or JSON), InputTooLarge (bytes or number of
    inputs), InputError (nothing in it, JSON of another form), TooSlow. The body may then hold more than was read.
    """
    declared = content_type or RAW_TYPES[modality][0]
    name, options = parse_options_header(declared)
    if name == "multipart/form-data":
        read_form = await form.read(body, options.get("boundary", ""), max_inputs, views=modality == "image")
        upload = _from_form(read_form)
    elif name == JSON_TYPE:
        raw = await body.whole()
        json_body.check_count(raw, spec, max_inputs)
        if len(raw) <= INLINE_JSON:
            upload = _from_json(raw, spec, max_inputs)
        else:
            upload = await asyncio.to_thread(_in_turn, raw, spec, max_inputs)
    elif _fits(name, RAW_TYPES[modality]):
        _check_charset(name, options.get("charset", ""))
        upload = Upload([Input(RAW_NAME, await body.whole())])
    else:
        raise UnsupportedInput(
            f"content type {declared[:100]!r} is not taken", found=f"taken are {', '.join(taken(modality))}"
        )
    return upload if upload.many else _single(upload)


def taken(modality: Modality) -> list[str]:
    """The content types of a request's body."""
    return ["multipart/form-data", JSON_TYPE, *RAW_TYPES[modality]]


def _fits(name: str, types: tuple[str, ...]) -> bool:
    return any(name == t or (t.endswith("/*") and name.startswith(t[:-1]) and len(name) >= len(t)) for t in types)


def _check_charset(name: str, charset: str) -> None:
    if name.startswith("text/") and charset.strip("\"' ").lower() not in CHARSETS:
        raise UnsupportedInput(f"charset {charset[:40]!r} is not taken", found="UTF-8 is", next="send UTF-8")


def _from_form(parts: form.Parts) -> Upload:
    if parts.views:
        name = ", ".join(p.name for p in parts.views)[: form.NAME_LENGTH]
        return Upload([Input(name, [p.content for p in parts.views])])
    return Upload([Input(p.name, p.content) for p in parts.files], many=len(parts.files) > 1)


def _in_turn(raw: bytes, spec: Spec, max_inputs: int) -> Upload:
    with PARSING:
        return _from_json(raw, spec, max_inputs)


def _from_json(raw: bytes, spec: Spec, max_inputs: int) -> Upload:
    bodies, many = json_body.split(json_body.parse(raw), max_inputs)
    inputs = [Input(f"inputs[{i}]" if many else RAW_NAME, b) for i, b in enumerate(bodies)]
    return Upload([_source(i, spec) for i in inputs], many)


def _source(item: Input, spec: Spec) -> Input:
    try:
        return replace(item, content=json_body.source(item.content, spec))
    except InputError as e:
        return replace(item, content=e)


def _single(upload: Upload) -> Upload:
    item = upload.inputs[0]
    if isinstance(item.content, InputError):
        raise item.content
    if isinstance(item.content, bytes) and not item.content:
        raise InputError(f"{item.name} is empty", found="0 bytes")
    return upload
