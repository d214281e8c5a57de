"""Whatever bytes come, the answer is an answer or a 4xx problem, never a 5xx."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import Server, drawing

sys.path.append(str(Path(__file__).parents[2] / "bench"))

import fuzz_serving

QUICK = settings(max_examples=60, deadline=None)
KINDS = [drawing(1, kind=kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")]
NEAR = st.builds(
    lambda picture, where, noise, cut: (picture[: where % len(picture)] + noise + picture[where % len(picture) :])[
        :cut
    ],
    st.sampled_from(KINDS),
    st.integers(0, 10_000),
    st.binary(max_size=20),
    st.integers(1, 12_000),
)
PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40).map(str.strip)
KNOWN_TYPES = st.sampled_from(["image/png", "application/octet-stream", "multipart/form-data; boundary=b"])
TYPES = KNOWN_TYPES | PRINTABLE


@QUICK
@given(content=st.binary(max_size=300) | NEAR, content_type=TYPES)
def test_no_body_is_a_fault_of_the_server(server: Server, content: bytes, content_type: str) -> None:
    check(server, {"content": content, "headers": {"Content-Type": content_type}})


@QUICK
@given(files=st.lists(st.tuples(st.just("file") | st.text(max_size=5), st.text(max_size=8), NEAR), max_size=9))
def test_no_form_is_a_fault_of_the_server(server: Server, files: list[tuple[str, str, bytes]]) -> None:
    check(server, {"files": [(field, (name, content)) for field, name, content in files]})


@QUICK
@given(head=st.binary(max_size=80), tail=st.binary(max_size=80))
def test_no_multipart_is_a_fault_of_the_server(server: Server, head: bytes, tail: bytes) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="file"' + head + b"\r\n\r\nabc\r\n--b" + tail
    check(server, {"content": body, "headers": {"Content-Type": "multipart/form-data; boundary=b"}})


def check(server: Server, request: dict[str, object]) -> None:
    response = server.client.post("/predict", **request)  # type: ignore[arg-type]
    assert response.status_code < 500, response.text
    kind = "application/json" if response.status_code == 200 else "application/problem+json"
    assert response.headers["content-type"] == kind


@pytest.mark.slow
def test_two_thousand_requests_that_nobody_should_send(server: Server) -> None:
    """The short form of bench/fuzz_serving.py: schemathesis, broken pictures, bodies, heads and raw bytes."""
    found = fuzz_serving.fuzz(server.url, KINDS, requests=2000, seed=1)
    assert not found.wrong, found.wrong
    assert found.requests == 2000
    assert {200, 400, 422} <= found.statuses.keys()
    assert server.process.poll() is None
    assert server.client.get("/ready").status_code == 200
    assert "Traceback" not in server.log
