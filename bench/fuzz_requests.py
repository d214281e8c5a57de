"""What bench/fuzz_serving.py sends beside what a schema can say: each maker draws one request's bytes from `rng`."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

MAGICS = (
    b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"RIFF\x00\x00\x00\x00WEBP", b"II*\x00", b"MM\x00*",
    b"%PDF-1.7", b"PK\x03\x04", b"\x00\x00\x00\x18ftypheic", b"<svg",
)  # fmt: skip
TYPES = (
    "image/jpeg", "image/png", "image/*", "application/octet-stream", "multipart/form-data", "text/plain", "", "x",
    "multipart/form-data; boundary=", "multipart/form-data; boundary=b; boundary=c", "application/json",
    "application/json; charset=utf-16", "text/csv", "multipart/mixed; boundary=b", "image/jpeg; q=" + "9" * 300,
    "application/x-www-form-urlencoded", "multipart/form-data; boundary=" + "b" * 200, "IMAGE/JPEG;;;=;",
)  # fmt: skip
PATHS = (
    "/predict", "/predict/", "//predict", "/predict/../predict", "/%70redict", "/predict%00", "/model", "/metrics",
    "/ready", "/health", "/docs", "/openapi.json", "/page/page.js", "/page/../../etc/passwd", "/v2", "/",
    "/v2/models/x", "/v2/models/x/infer", "/v2/health/ready", "/v2/repository/index", "*", "/\xe9", "/" + "a" * 3000,
)  # fmt: skip
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "get", "X-Y", "PROPFIND")
TIMES_MS = ("0", "1", "-1", "1e3", "\xb2", "1.5", " 7", "9" * 5000)
TOPS = ("", "?top=3", "?top=-1", "?top=x", "?top=1&top=2", "?top=" + "9" * 5000, "?top=%C2%B2")
CHUNKS = (b"zz\r\n", b"5\r\nab", b"f" * 18 + b"\r\n", b"0\r\n\r\n", b"-1\r\n", b"3;x=y\r\nabc\r\n0\r\n\r\n")


def mutated(rng: random.Random, content: bytes) -> bytes:
    """Bytes changed, cut, doubled or put in, here and there."""
    out = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5, 30))):
        at = rng.randrange(len(out) + 1)
        what = rng.randrange(6)
        if what == 0 and out:
            out[at % len(out)] = rng.randrange(256)
        elif what == 1:
            out[at:at] = rng.randbytes(rng.randrange(1, 40))
        elif what == 2:
            del out[at : at + rng.randrange(1, 200)]
        elif what == 3:
            del out[at:]
        elif what == 4:
            out[at:at] = out[at : at + rng.randrange(1, 500)]
        else:
            out[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x7f\xff\xff\xff", b"\xff\xd8"))
    return bytes(out)


def picture(rng: random.Random, pictures: Sequence[bytes], url: str) -> bytes:
    content = mutated(rng, rng.choice(pictures))
    if rng.random() < 0.3:
        content = rng.choice(MAGICS) + content[rng.randrange(12) :]
    if rng.random() < 0.5:
        return whole(url, content, rng.choice(TYPES[:4]))
    return whole(url, form(content, b"b"), "multipart/form-data; boundary=b")


def body(rng: random.Random, pictures: Sequence[bytes], url: str) -> bytes:
    made = rng.choice((_odd_form, _odd_json, _odd_type))(rng, pictures)
    headers = {}
    if rng.random() < 0.2:
        headers["Content-Length"] = rng.choice(("0", "-1", "1", "99999999999999999999", "5, 5", "0x10", "", "7"))
    if rng.random() < 0.1:
        headers["Transfer-Encoding"] = rng.choice(("chunked", "gzip", "chunked, chunked", "identity"))
    if rng.random() < 0.1:
        headers["Content-Encoding"] = rng.choice(("gzip", "br", "identity", "x"))
    if rng.random() < 0.1:
        headers["X-Timeout-Ms"] = rng.choice(TIMES_MS)
    return whole(url, *made, headers=headers, query=rng.choice(TOPS))


def _odd_form(rng: random.Random, pictures: Sequence[bytes]) -> tuple[bytes, str]:
    made = form(
        rng.choice(pictures)[: rng.choice((0, 10, 10**6))], b"b", name=rng.choice(("file", "files", "", "x\xe9"))
    )
    return (mutated(rng, made[:300]) + made[300:] if rng.random() < 0.7 else mutated(rng, made)), \
        "multipart/form-data; boundary=b"  # fmt: skip


def _odd_json(rng: random.Random, _: Sequence[bytes]) -> tuple[bytes, str]:
    made = json.dumps({rng.choice(("image", "inputs", "text", "series", "views", "")): _value(rng, 3)}).encode()
    if rng.random() < 0.1:
        made = b"[" * rng.choice((10, 100_000)) + made
    return (mutated(rng, made) if rng.random() < 0.4 else made), "application/json"


def _value(rng: random.Random, depth: int) -> Any:
    leaves = (
        None,
        True,
        -1,
        1e308,
        10**30,
        "",
        "data:image/png;base64,AAAA",
        "iVBORw0KGgo=",
        "\ud800",
        "x" * 1000,
        0.5,
    )
    if depth and rng.random() < 0.5:
        n = rng.choice((0, 1, 2, 70))
        if rng.random() < 0.5:
            return [_value(rng, depth - 1) for _ in range(n)]
        return {rng.choice(("image", "b64", "", "inputs", "0")): _value(rng, depth - 1) for _ in range(n)}
    return rng.choice(leaves)


def _odd_type(rng: random.Random, pictures: Sequence[bytes]) -> tuple[bytes, str]:
    return rng.choice((b"", b"\x00", b"--b--\r\n", rng.choice(pictures), rng.randbytes(200))), rng.choice(TYPES)


def head(rng: random.Random, pictures: Sequence[bytes], url: str) -> bytes:
    lines = [f"{rng.choice(METHODS)} {rng.choice(PATHS)}{rng.choice(('', '?', '?a=%zz', '?top=2'))} HTTP/1.1"]
    lines.append(f"Host: {rng.choice((urlsplit(url).netloc, 'x.example', '', 'a' * 300, '127.0.0.1:99999'))}")
    for _ in range(rng.choice((0, 1, 3, 150))):
        name = rng.choice(("Origin", "X-Request-ID", "X-Timeout-Ms", "Content-Type", "Host", "Authorization", "Cookie",
                           "Content-Length", "Range", "If-None-Match", "Expect", "Upgrade", "X-\xe9", "Access-Control-"
                           "Request-Method", "Inference-Header-Content-Length", "Accept"))  # fmt: skip
        value = rng.choice(("", "1", "-1", "null", "https://evil.example", "Bearer x", "9" * 400, "\xff", "\t", "*/*",
                            "100-continue", "websocket", "bytes=0-", "a\x00b", "x" * 70_000))  # fmt: skip
        lines.append(f"{name}: {value}")
    content = rng.choice((b"", rng.choice(pictures)))
    if content or rng.random() < 0.5:
        lines.append(f"Content-Length: {len(content)}")
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + content


def raw(rng: random.Random, pictures: Sequence[bytes], url: str) -> bytes:
    good = whole(url, rng.choice(pictures)[:400], "image/jpeg")
    chunked = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    return rng.choice(
        (
            lambda: mutated(rng, good),
            lambda: rng.randbytes(rng.randrange(1, 500)),
            lambda: good[: rng.randrange(len(good))],
            lambda: good.replace(b"HTTP/1.1", rng.choice((b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9", b"", b"ICY"))),
            lambda: good.replace(b"\r\n", rng.choice((b"\n", b"\r", b"\r\n\r\n", b"\r\n "))),
            lambda: good + good,
            lambda: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            lambda: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + good,
            lambda: chunked + rng.choice(CHUNKS),
        )
    )()


def form(content: bytes, boundary: bytes, *, name: str = "file") -> bytes:
    head = f'Content-Disposition: form-data; name="{name}"; filename="a.jpg"\r\n\r\n'.encode()
    return b"--" + boundary + b"\r\n" + head + content + b"\r\n--" + boundary + b"--\r\n"


def whole(
    url: str, content: bytes, content_type: str, *, headers: dict[str, str] | None = None, query: str = ""
) -> bytes:
    """A request to /predict with all that belongs to it, and `headers` in place of its own."""
    named = {"Host": urlsplit(url).netloc, "Content-Type": content_type, "Content-Length": str(len(content)),
             "Connection": "close", **(headers or {})}  # fmt: skip
    if "Transfer-Encoding" in named:
        del named["Content-Length"]
    lines = [f"POST /predict{query} HTTP/1.1", *(f"{k}: {v}" for k, v in named.items())]
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + content


MAKERS = {"picture": picture, "body": body, "head": head, "raw": raw}
