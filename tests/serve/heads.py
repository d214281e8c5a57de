"""Heads of requests made by hand."""

from __future__ import annotations

from proj.serve import head as heads
from proj.serve.head import Head


def head(path: str = "/predict", method: str = "GET", client: str = "127.0.0.1", **headers: str) -> Head:
    """`headers` with _ for -; Host is this machine's where none is given, left out where it is empty."""
    given = {"host": "localhost:8000", **headers}
    raw = [(k.replace("_", "-").encode(), v.encode("latin-1")) for k, v in given.items() if v or k != "host"]
    return from_lines(raw, path, method, client)


def from_lines(
    raw: list[tuple[bytes, bytes]], path: str = "/predict", method: str = "GET", client: str = "127.0.0.1"
) -> Head:
    scope = {"method": method, "path": path, "query_string": b"", "headers": raw, "client": (client, 4321)}
    return heads.read(scope)
