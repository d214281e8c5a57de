"""multipart/form-data: parts called `file` are inputs each, parts called `views` are one input together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from proj.errors import BadRequest, InputError, InputTooLarge

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

    from proj.serve.body import Body

FIELD = "file"
VIEWS = "views"
NAME_LENGTH = 255


@dataclass(frozen=True, slots=True)
class Part:
    """A part's file name, or what the part is called, and its bytes."""

    name: str
    content: bytes


@dataclass(slots=True)
class Parts:
    """A form's parts in order; either `files` or `views`, never both."""

    files: list[Part] = field(default_factory=list)
    views: list[Part] = field(default_factory=list)


async def read(body: Body, boundary: bytes, max_inputs: int, *, views: bool) -> Parts:
    """At least one part. Raises BadRequest (broken, a part of another name), InputTooLarge, InputError (none)."""
    if not boundary:
        raise BadRequest("the multipart body has no boundary in its content type")
    form = _Form(max_inputs, (FIELD, VIEWS) if views else (FIELD,))
    try:
        parser = MultipartParser(boundary, form.callbacks())
        async for chunk in body.chunks():
            parser.write(chunk)
    except FormParserError as e:
        raise BadRequest("the multipart body is broken", found=str(e)[:200]) from None
    if not form.finished:
        raise BadRequest("the multipart body is cut off", found="its closing boundary is missing")
    parts = form.parts
    if not parts.files and not parts.views:
        raise InputError("no input in the form", next=f"send it as a part called `{FIELD}`")
    if parts.files and parts.views:
        raise BadRequest(f"the form has parts called `{FIELD}` and `{VIEWS}`", next="send one kind or the other")
    return parts


class _Form:
    """Collects the parts in memory: their size is bounded, and no temporary file is needed."""

    def __init__(self, max_inputs: int, names: tuple[str, ...]) -> None:
        self.max_inputs, self.names = max_inputs, names
        self.parts = Parts()
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
        self.header, self.value = b"", b""
        self.disposition = b""
        self.name = ""
        self.called = FIELD
        self.content = bytearray()

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self.header += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self.value += data[start:end]

    def header_end(self) -> None:
        if self.header.lower() == b"content-disposition":
            self.disposition = self.value
        self.header, self.value = b"", b""

    def headers_finished(self) -> None:
        _, options = parse_options_header(self.disposition)
        self.called = options.get(b"name", b"").decode("utf-8", "replace")
        if self.called not in self.names:
            next = f"an input's part is called {' or '.join(f'`{n}`' for n in self.names)}"
            raise BadRequest(f"the form has a part called {self.called[:100]!r}", next=next)
        if len(self.parts.files) + len(self.parts.views) == self.max_inputs:
            raise InputTooLarge("too many inputs in one request", found=f"the limit is {self.max_inputs}")
        self.name = options.get(b"filename", b"").decode("utf-8", "replace")[:NAME_LENGTH]

    def data(self, data: bytes, start: int, end: int) -> None:
        self.content += data[start:end]

    def end(self) -> None:
        part = Part(self.name or self.called, bytes(self.content))
        (self.parts.views if self.called == VIEWS else self.parts.files).append(part)
        self.content = bytearray()

    def finish(self) -> None:
        self.finished = True
