"""Wrong, broken and hostile requests: each gets its status and a problem, and the server goes on."""

from __future__ import annotations

import io
import socket
import struct
import time
import zlib
from typing import Any

import pytest
from PIL import Image
from serving import Server, drawing

GOOD = drawing()
FORM = "multipart/form-data; boundary=b"


def part(content: bytes, disposition: bytes = b'form-data; name="file"; filename="x.png"') -> bytes:
    return b"--b\r\nContent-Disposition: " + disposition + b"\r\n\r\n" + content + b"\r\n"


def bomb() -> bytes:
    """A PNG of some bytes whose header promises 40,000 x 40,000 pixels."""
    head = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def large_picture() -> bytes:
    out = io.BytesIO()
    Image.new("L", (1001, 1000)).save(out, "PNG")
    return out.getvalue()


def typed(content: bytes, content_type: str) -> dict[str, Any]:
    return {"content": content, "headers": {"Content-Type": content_type}}


BAD: dict[str, tuple[int, dict[str, Any], str]] = {
    "no body": (422, {}, "empty"),
    "empty raw body": (422, typed(b"", "image/png"), "empty"),
    "empty file": (422, {"files": {"file": ("e.png", b"")}}, "e.png is empty"),
    "form without parts": (422, typed(b"--b--\r\n", FORM), "no input"),
    "wrong field": (400, {"files": {"image": ("a.png", GOOD)}}, "'image'"),
    "field without a name": (400, typed(part(GOOD, b"form-data") + b"--b--\r\n", FORM), "called `file`"),
    "JSON of another form": (422, {"json": {"file": "a.png"}}, "'file'"),
    "text": (415, typed(GOOD, "text/plain"), "text/plain"),
    "urlencoded": (415, {"data": {"file": "a.png"}}, "urlencoded"),
    "content type that is none": (415, typed(GOOD, ";;;,"), "is not taken"),
    "form without a boundary": (400, typed(part(GOOD), "multipart/form-data"), "boundary"),
    "form with another boundary": (400, typed(b"--c\r\n\r\n--c--\r\n", FORM), "cut off"),
    "form with a broken head": (400, typed(b"--b\r\nno colon\r\n\r\n--b--\r\n", FORM), "broken"),
    "form with a part of another kind": (400, typed(part(GOOD, b"inline") + b"--b--\r\n", FORM), "broken"),
    "form cut off": (400, typed(part(GOOD)[:60], FORM), "cut off"),
    "form without its end": (400, typed(part(GOOD), FORM), "cut off"),
    "no picture": (415, {"files": {"file": ("a.png", b"hello, world")}}, "not a picture"),
    "script as a picture": (
        415,
        {"files": {"file": ("a.svg", b"<svg onload='alert(1)'/>")}},
        "not a picture",
    ),
    "PDF": (415, typed(b"%PDF-1.7\n1 0 obj\n<<>>\nendobj", "image/png"), "not a picture"),
    "picture cut off": (422, {"files": {"file": ("a.png", GOOD[: len(GOOD) // 2])}}, "broken"),
    "picture with flipped bytes": (422, typed(GOOD[:60] + bytes(40) + GOOD[100:], "image/png"), "broken"),
    "only a header": (415, typed(GOOD[:33], "image/png"), "not a picture"),
    "bomb": (413, {"files": {"file": ("bomb.png", bomb())}}, "pixels"),
    "a pixel row too many": (413, typed(large_picture(), "image/png"), "1,000,000"),
    "too many bytes": (413, typed(bytes(500_001), "image/png"), "0.5 MB"),
    "far too many bytes": (413, {"files": {"file": ("big.png", bytes(5_000_000))}}, "0.5 MB"),
    "too many files": (413, {"files": [("file", (f"{i}.png", b"x")) for i in range(9)]}, "8"),
    "thousands of files": (413, typed(part(b"") * 5000 + b"--b--\r\n", FORM), "8"),
    "endless part header": (400, typed(b"--b\r\nX: " + b"a" * 100_000, FORM), "broken"),
}


def assert_problem(response: Any, status: int, path: str = "/predict") -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body.keys() == {"type", "title", "status", "detail", "instance", "request_id"}
    assert body["status"] == status
    assert body["instance"] == path
    assert body["type"].startswith("/docs#")
    assert "Traceback" not in response.text
    return body


@pytest.mark.parametrize("name", BAD)
def test_a_bad_upload_is_a_problem(server: Server, name: str) -> None:
    status, request, says = BAD[name]
    start = time.monotonic()
    body = assert_problem(server.client.post("/predict", **request), status)
    assert says in body["detail"]
    assert time.monotonic() - start < 20
    assert server.client.post("/predict", content=GOOD).status_code == 200


def test_too_large_is_seen_without_a_content_length(server: Server) -> None:
    chunks = (bytes(100_000) for _ in range(20))
    assert_problem(server.client.post("/predict", content=chunks, headers={"Content-Type": "image/png"}), 413)


def test_a_client_that_waits_for_leave_to_send_is_refused_before_it_sends(server: Server) -> None:
    answer = raw(server, b"Content-Length: 9000000\r\nExpect: 100-continue\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413")


def test_an_upload_that_stands_still_is_ended(server: Server) -> None:
    answer = raw(server, b"Content-Length: 1000\r\n\r\nabc")
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"application/problem+json" in answer


def test_a_client_that_goes_away_leaves_no_trace(server: Server) -> None:
    before = server.log
    host, port = server.url.removeprefix("http://").split(":")
    for _ in range(5):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")
    time.sleep(0.3)
    assert server.client.post("/predict", content=GOOD).status_code == 200
    assert server.log == before


@pytest.mark.parametrize("path", ["/nothing", "/page/../app.py", "/page/%2e%2e/app.py", "/page/", "/predict/", "/%00"])
def test_a_path_that_is_not_there(server: Server, path: str) -> None:
    response = server.client.get(path)
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", "/predict", "POST"), ("HEAD", "/predict", "POST"), ("DELETE", "/predict", "POST"),
     ("PUT", "/", "GET"),
     ("POST", "/model", "GET"), ("POST", "/health", "GET"), ("PATCH", "/openapi.json", "GET")],
)  # fmt: skip
def test_a_method_that_is_not_possible(server: Server, method: str, path: str, allowed: str) -> None:
    response = server.client.request(method, path)
    assert response.status_code == 405
    assert allowed in response.headers["allow"]
    if method != "HEAD":
        assert_problem(response, 405, path)


def raw(server: Server, rest: bytes) -> bytes:
    """The answer's first bytes to a request written by hand."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n" + rest)
        return connection.recv(4096)
