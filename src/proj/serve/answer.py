"""POST /predict: from a request's body to an answer, without the layers that the other routes go through."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

import orjson

from proj.errors import BadRequest, InputError, UnsupportedInput
from proj.serve import upload
from proj.serve.reply import Reply

if TYPE_CHECKING:
    from proj.serve.body import Body
    from proj.serve.connection import Connection
    from proj.serve.head import Head
    from proj.serve.queue import Outcome, Queue
    from proj.serve.settings import Settings
    from proj.serve.slots import Slot

TIMEOUT = b"x-timeout-ms"
TOP = "top"


async def predict(slot: Slot, head: Head, body: Body, asker: Connection, queue: Queue, settings: Settings) -> Reply:
    """The answer to one input, or the answers to several. Raises ProjError's kinds, some before the body is whole."""
    if head.encoding:
        raise UnsupportedInput(
            f"content encoding {head.encoding[:40]!r} is not taken", next="send the bytes as they are"
        )
    top, timeout_s = asked_top(head.query), asked_timeout_s(head)
    model = slot.take()
    queue.check_room()  # before megabytes are read for nothing
    content_type = head.values.get(b"content-type", b"").decode("latin-1")
    sent = await upload.read(body, content_type, model.manifest.modality, model.spec, settings.max_inputs)
    outcomes = await queue.answers(slot, sent.inputs, top=top, timeout_s=timeout_s, asker=asker)
    if sent.many:
        pairs = zip(sent.inputs, outcomes, strict=True)
        return Reply(200, b'{"predictions":[%b]}' % b",".join(_or_error(i, o) for i, o in pairs))
    if isinstance(outcomes[0], InputError):
        raise outcomes[0]
    return Reply(200, outcomes[0])


def _or_error(item: upload.Input, outcome: Outcome) -> bytes:
    if isinstance(outcome, InputError):
        return orjson.dumps({"input": item.name, "error": str(outcome)})
    return outcome


def asked_top(query: bytes) -> int:
    """How many of the most probable classes are asked for; 0 is all. Raises BadRequest."""
    if not query:
        return 0
    values = [v for k, v in parse_qsl(query.decode("latin-1"), keep_blank_values=True) if k == TOP]
    if not values:
        return 0
    top = _whole(values[0], 10**6) if len(values) == 1 else 0
    if not top:
        raise BadRequest(f"{TOP} is not a number of classes", found=values[-1][:40], next=f"write ?{TOP}=3")
    return top


def asked_timeout_s(head: Head) -> float:
    """Seconds that the client is ready to wait; 0 where it does not say. Raises BadRequest."""
    value = head.values.get(TIMEOUT)
    if value is None:
        return 0.0
    milliseconds = _whole(value.decode("latin-1"), 10**9)
    if not milliseconds:
        raise BadRequest("X-Timeout-Ms is not a number of milliseconds", found=value[:40].decode("latin-1"))
    return milliseconds / 1000


def _whole(text: str, most: int) -> int:
    """A whole number from 1 to `most`, 0 for anything else; Python itself reads no number of thousands of digits."""
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(most)):
        return 0
    number = int(text)
    return number if number <= most else 0
