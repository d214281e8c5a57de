"""From a request's body to inputs: multipart with one or several `file` parts, or one picture's raw bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from proj.errors import BadRequest, InputError, InputTooLarge, UnsupportedInput
from proj.serve.guard import Body

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FIELD = "file"
RAW_NAME = "body"
RAW_TYPE = "application/octet-stream"
NAME_LENGTH = 255
TAKEN = "multipart/form-data with `file` parts, image/* or application/octet-stream"


@dataclass(frozen=True, slots=True)
class Input:
    """One picture as it came, and its name for the answer."""

    name: str
    content: bytes


async def read(body: Body, content_type: str | None, max_inputs: int) -> list[Input]:
    """All inputs of a request, at least one; a single one is not empty.

    Raises UnsupportedInput (content type), BadRequest (broken multipart), InputTooLarge (bytes or number of
    inputs), InputError (nothing in it), TooSlow. The body may then hold more than was read.
    """
    declared = content_type or RAW_TYPE  # RFC 9110 8.3: a body without a type may be read so
    kind, options = parse_options_header(declared)
    if kind == b"multipart/form-data":
        inputs = await _multipart(body, options.get(b"boundary", b""), max_inputs)
    elif kind.startswith(b"image/") or kind == RAW_TYPE.encode():
        inputs = [Input(RAW_NAME, b"".join([chunk async for chunk in body.chunks()]))]
    else:
        raise UnsupportedInput(f"content type {declared[:100]!r} is not taken", found=f"taken are {TAKEN}")
    if not inputs:
        raise InputError("no input in the form", next=f"send the picture as a part called `{FIELD}`")
    if len(inputs) == 1 and not inputs[0].content:
        raise InputError(f"{inputs[0].name} is empty", found="0 bytes")
    return inputs


async def _multipart(body: Body, boundary: bytes, max_inputs: int) -> list[Input]:
    if not boundary:
        raise BadRequest("the multipart body has no boundary in its content type")
    form = _Form(max_inputs)
    try:
        parser = MultipartParser(boundary, form.callbacks())
        async for chunk in body.chunks():
            parser.write(chunk)
    except FormParserError as e:
        raise BadRequest("the multipart body is broken", found=str(e)[:200]) from None
    if not form.finished:
        raise BadRequest("the multipart body is cut off", found="its closing boundary is missing")
    return form.inputs


class _Form:
    """Collects the parts in memory: their size is bounded, and no temporary file is needed."""

    def __init__(self, max_inputs: int) -> None:
        self.max_inputs = max_inputs
        self.inputs: list[Input] = []
        self.finished = False
        self.begin()

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self.begin,
            "on_header_field": self.header_name,
            "on_header_value": self.header_value,
            "on_header_end": self.header_end,
            "on_headers_finished": self.headers_finished,
            "on_part_data": self.data,
            "on_part_end": self.end,
            "on_end": self.finish,
        }

    def begin(self) -> None:
        self.field, self.value = b"", b""
        self.disposition = b""
        self.name = ""
        self.content = bytearray()

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self.field += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self.value += data[start:end]

    def header_end(self) -> None:
        if self.field.lower() == b"content-disposition":
            self.disposition = self.value
        self.field, self.value = b"", b""

    def headers_finished(self) -> None:
        _, options = parse_options_header(self.disposition)
        field = options.get(b"name", b"").decode("utf-8", "replace")
        if field != FIELD:
            raise BadRequest(
                f"the form has a part called {field[:100]!r}", next=f"each picture's part is called `{FIELD}`"
            )
        if len(self.inputs) == self.max_inputs:
            raise InputTooLarge("too many inputs in one request", found=f"the limit is {self.max_inputs}")
        self.name = options.get(b"filename", b"").decode("utf-8", "replace")[:NAME_LENGTH]

    def data(self, data: bytes, start: int, end: int) -> None:
        self.content += data[start:end]

    def end(self) -> None:
        self.inputs.append(Input(self.name or FIELD, bytes(self.content)))
        self.content = bytearray()

    def finish(self) -> None:
        self.finished = True
