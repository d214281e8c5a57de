"""multipart/form-data: parts called `file` are inputs each, parts called `views` are one input together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from multipart import MultipartError, MultipartSegment, PushMultipartParser

from proj.errors import BadRequest, InputError, InputTooLarge

if TYPE_CHECKING:
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


async def read(body: Body, boundary: str, max_inputs: int, *, views: bool) -> Parts:
    """At least one part. Raises BadRequest (broken, a part of another name), InputTooLarge, InputError (none)."""
    if not boundary:
        raise BadRequest("the multipart body has no boundary in its content type")
    form = _Form(max_inputs, (FIELD, VIEWS) if views else (FIELD,))
    try:
        parser = PushMultipartParser(boundary)
        while not body.ended:
            if chunk := await body.next():
                form.take(parser, chunk)
    except MultipartError as e:
        raise BadRequest("the multipart body is broken", found=str(e)[:200]) from None
    try:
        parser.close()
    except MultipartError:
        raise BadRequest("the multipart body is cut off", found="its closing boundary is missing") from None
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
        self._list = self.parts.files
        self._name = ""
        self._pieces: list[bytes] = []

    def take(self, parser: PushMultipartParser, chunk: bytes) -> None:
        """What a chunk of the body holds: a part's beginning, pieces of its content (bytes), its end (None)."""
        for event in parser.parse(chunk):
            if event is None:
                self._list.append(Part(self._name, b"".join(self._pieces)))
            elif isinstance(event, MultipartSegment):
                self._begin(event)
            else:
                self._pieces.append(event)

    def _begin(self, segment: MultipartSegment) -> None:
        if segment.name not in self.names:
            next = f"an input's part is called {' or '.join(f'`{n}`' for n in self.names)}"
            raise BadRequest(f"the form has a part called {segment.name[:100]!r}", next=next)
        if len(self.parts.files) + len(self.parts.views) == self.max_inputs:
            raise InputTooLarge("too many inputs in one request", found=f"the limit is {self.max_inputs}")
        self._list = self.parts.views if segment.name == VIEWS else self.parts.files
        self._name = (segment.filename or segment.name)[:NAME_LENGTH]
        self._pieces = []
