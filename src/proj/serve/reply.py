"""An HTTP answer that is there whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Send

Headers = Sequence[tuple[bytes, bytes]]
JSON = b"application/json"


@dataclass(slots=True)
class Reply:
    """`headers` beside content-type and content-length."""

    status: int
    body: bytes = b""
    media_type: bytes = JSON
    headers: Headers = ()

    async def send(self, send: Send, more: Headers = (), *, head_only: bool = False) -> None:
        """Send it as ASGI messages, with `more` headers."""
        headers = [*self.headers, *more]
        if self.status != 204:
            headers += ((b"content-type", self.media_type), (b"content-length", b"%d" % len(self.body)))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if head_only else self.body})
