"""A request's head, read once: what the server looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Scope

# Headers that must not come twice: the second would be read by one server and not by the next.
WANTED = frozenset(
    {
        b"host", b"origin", b"content-type", b"content-length", b"authorization", b"x-request-id", b"x-timeout-ms",
        b"expect", b"inference-header-content-length", b"access-control-request-method", b"if-none-match",
        b"content-encoding", b"x-forwarded-for",
    }
)  # fmt: skip
LISTED = frozenset({b"x-forwarded-for"})  # each proxy may add a line of its own (RFC 9110 5.3): they are one list


@dataclass(slots=True)
class Head:
    """`values`: wanted headers by lower-case name; `twice`: the name of one that came more than once, else b""."""

    method: str
    path: str
    query: bytes
    client: str
    values: dict[bytes, bytes]
    twice: bytes = b""

    def get(self, name: bytes) -> str:
        """A header's value, "" where it is missing."""
        value = self.values.get(name)
        return "" if value is None else value.decode("latin-1")

    @property
    def encoding(self) -> str:
        """How the body is compressed, in lower case; "" where it is not."""
        named = self.get(b"content-encoding").strip().lower()
        return "" if named == "identity" else named


def read(scope: Scope) -> Head:
    """Of an HTTP request's scope."""
    values: dict[bytes, bytes] = {}
    twice = b""
    for name, value in scope["headers"]:
        if name in WANTED:
            if name in values:
                if name in LISTED:
                    value = values[name] + b"," + value
                else:
                    twice = name
            values[name] = value
    client = scope.get("client")
    return Head(scope["method"], scope["path"], scope["query_string"], client[0] if client else "", values, twice)
