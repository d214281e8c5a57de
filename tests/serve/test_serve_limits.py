"""Those who ask badly: slow heads, endless heads, no HTTP, too many at once, and clients that hang up."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from bundles import make_bundle
from gate import LIMIT_S, Gate, metric, wait_for_metric
from serving import Server, drawing, free_log


@pytest.fixture(scope="module")
def gate(folder: Path) -> Gate:
    return Gate(folder / "patience")


@pytest.fixture(scope="module")
def slow(folder: Path, gate: Gate) -> Iterator[Server]:
    """A model behind a gate, one thread, and little patience."""
    bundle = make_bundle(folder / "patient")
    flags = {"threads": 1, "workers": 1, "head_s": 0.5, "connections": 12, "max_batch": 1, "max_inputs": 8}
    before = f"{gate.before}\nfrom proj.serve import protocol; protocol.TAIL_S = 0.5"
    with Server(bundle, free_log(folder), before=before, **flags) as running:
        yield running


def connect(server: Server) -> socket.socket:
    parts = urlsplit(server.url)
    assert parts.hostname is not None
    return socket.create_connection((parts.hostname, parts.port or 80), timeout=10)


def read_all(sock: socket.socket) -> bytes:
    got = b""
    while chunk := sock.recv(65536):
        got += chunk
    return got


def problem(answer: bytes) -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    made: dict[str, Any] = json.loads(body)
    return made


def request(picture: bytes, *lines: bytes, path: bytes = b"/predict") -> bytes:
    head = [b"POST " + path + b" HTTP/1.1", b"Host: localhost", b"Content-Length: %d" % len(picture), *lines]
    return b"\r\n".join([*head, b"", picture])


@pytest.mark.parametrize("sent", [b"", b"POST /predict HTTP/1.1\r\nHost: loc"], ids=["nothing", "half a head"])
def test_a_head_that_does_not_come_is_cut_off(slow: Server, sent: bytes) -> None:
    start = time.monotonic()
    with connect(slow) as sock:
        sock.sendall(sent)
        answer = read_all(sock)
    assert 0.45 < time.monotonic() - start < 10
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert problem(answer)["status"] == 408


@pytest.mark.parametrize("late", [b"", b"a"], ids=["nothing", "a byte"])
def test_a_body_that_does_not_end_after_its_answer_is_cut_off(slow: Server, late: bytes) -> None:
    with connect(slow) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")
        sock.sendall(late)
        assert read_all(sock) == b""


def test_a_body_that_ends_after_its_answer_leaves_the_connection_to_the_next_request(slow: Server) -> None:
    with connect(slow) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")
        sock.sendall(b"a" * 10)
        time.sleep(2.5)  # longer than a body has, and two looks of the sweep
        sock.sendall(request(drawing(), b"Connection: close"))
        assert read_all(sock).startswith(b"HTTP/1.1 200 ")


def test_a_body_that_ends_after_its_answer_leaves_no_connection_open_for_ever(folder: Path, digits: Path) -> None:
    short = "from proj.serve import worker; worker.KEEP_ALIVE_S = 1"
    with Server(digits, free_log(folder), before=short) as server, connect(server) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")
        sock.sendall(b"a" * 10)
        assert read_all(sock) == b""


def test_uploads_that_together_hold_too_much_are_refused_and_others_have_room_again(folder: Path, digits: Path) -> None:
    large = bytes(250_000)
    with Server(digits, free_log(folder), max_upload_mb=0.3, uploads_mb=0.4) as server:
        with connect(server) as held:
            held.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 300000\r\n\r\n" + large)
            wait_for_metric(server, "proj_upload_bytes", len(large))
            refused = server.client.post("/predict", content=large)
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "1"
            assert "too many uploads" in refused.json()["detail"]
        wait_for_metric(server, "proj_upload_bytes", 0)
        assert server.client.post("/predict", content=large).status_code == 415  # read whole, and no picture


def test_a_head_without_end_is_refused(slow: Server) -> None:
    with connect(slow) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X-Filler: " + b"a" * 70_000)
        answer = read_all(sock)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert problem(answer)["title"] == "Headers too large"


@pytest.mark.parametrize("sent", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"\0" * 100])
def test_what_is_no_http_is_a_problem(slow: Server, sent: bytes) -> None:
    with connect(slow) as sock:
        sock.sendall(sent)
        assert problem(read_all(sock))["status"] == 400
    assert slow.client.get("/health").status_code == 200


def test_connections_above_the_limit_are_refused_and_the_others_go_on(slow: Server) -> None:
    held = [connect(slow) for _ in range(12)]
    try:
        for sock in held[:-1]:
            sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answers = [sock.recv(65536).split(b"\r\n", 1)[0] for sock in held[:-1]]
        assert b"HTTP/1.1 200 OK" in answers
        with connect(slow) as late:
            late.sendall(request(drawing()))
            answer = read_all(late)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: " in answer.lower()
        assert "too many connections" in problem(answer)["detail"]
    finally:
        for sock in held:
            sock.close()
    deadline = time.monotonic() + 5
    while slow.client.get("/health").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def dropped(server: Server, reason: str) -> float:
    return metric(server, rf'proj_dropped_inputs_total\{{.*reason="{reason}".*\}}')


def test_work_of_a_client_that_hung_up_is_dropped_before_it_runs(slow: Server, gate: Gate) -> None:
    before, others = dropped(slow, "gone"), metric(slow, "proj_connections")
    hung_up, busy = (rf'proj_requests_total\{{route="/predict",status="{s}"\}}' for s in (499, 503))
    counted = metric(slow, hung_up), metric(slow, busy), metric(slow, r'proj_errors_total\{kind="bad-request"\}')
    with gate.shut():
        socks = [connect(slow) for _ in range(6)]
        for sock in socks:
            sock.sendall(request(drawing()))
        gate.wait_for_inside(1)
        wait_for_metric(slow, "proj_queue_depth", 5)
        for sock in socks:
            sock.close()
        wait_for_metric(slow, "proj_connections", others)
    slow.client.post("/predict", content=drawing())  # the one thread has done with those before it
    assert dropped(slow, "gone") - before == 5  # all but the one that had begun
    now = metric(slow, hung_up), metric(slow, busy), metric(slow, r'proj_errors_total\{kind="bad-request"\}')
    assert (now[0] - counted[0], now[1:]) == (5, counted[1:])  # no overload, and nobody's bad request


def test_requests_whose_deadline_is_over_are_told_so_at_once_and_the_one_that_waits_is_not_run(
    slow: Server, gate: Gate
) -> None:
    """Also while the model hangs; what waited makes room for others."""
    before, ran = dropped(slow, "late"), metric(slow, r'proj_batch_inputs_count\{model="digits"\}')

    def ask(_: int) -> httpx.Response:
        return slow.client.post("/predict", content=drawing(), headers={"X-Timeout-Ms": "300"})

    with gate.shut(), ThreadPoolExecutor(2) as pool:
        for answer in pool.map(ask, range(2)):  # one is in the thread, one waits
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "1"
            assert "waited too long" in answer.json()["detail"]
        assert metric(slow, "proj_queue_depth") == 0
    assert dropped(slow, "late") - before == 2
    assert slow.client.post("/predict", content=drawing()).status_code == 200
    assert metric(slow, r'proj_batch_inputs_count\{model="digits"\}') - ran == 2


def test_a_batch_of_tensors_takes_the_room_of_its_rows(folder: Path, gate: Gate) -> None:
    row = [[[0]] * 8] * 8
    tensor = {"name": "x", "shape": [6, 8, 8, 1], "datatype": "UINT8", "data": [row] * 6}
    flags = {"threads": 1, "queue_size": 8, "max_inputs": 8}
    with (
        Server(make_bundle(folder / "rows"), free_log(folder), before=gate.before, **flags) as server,
        gate.shut(),
        ThreadPoolExecutor(3) as pool,
    ):
        first = pool.submit(server.client.post, "/predict", content=drawing())
        gate.wait_for_inside(1)
        batch = pool.submit(server.client.post, "/v2/models/digits/infer", json={"inputs": [tensor]})
        wait_for_metric(server, "proj_queue_depth", 6)
        refused = server.client.post("/v2/models/digits/infer", json={"inputs": [tensor]})
        assert (refused.status_code, refused.json()) == (503, {"error": refused.json()["error"]})
        assert "queue is full" in refused.json()["error"]
        (gate.folder / "shut").unlink()
        assert first.result(LIMIT_S).status_code == batch.result(LIMIT_S).status_code == 200


DIGITS = "0" * 11 + "1" + "9" * 5000


@pytest.mark.parametrize("path", ["/predict", "/v2/models/digits/infer"])
def test_numbers_of_thousands_of_digits_are_refused(slow: Server, path: str) -> None:
    for value in (DIGITS, DIGITS[:400], "0" * 5000):
        answer = slow.client.post(path, content=drawing(), headers={"X-Timeout-Ms": value})
        assert answer.status_code == 400
        if path == "/predict":
            assert slow.client.post(f"/predict?top={value}", content=drawing()).status_code == 400


def test_a_refusal_does_not_wait_for_the_body_and_is_heard_by_who_still_sends(slow: Server) -> None:
    size = 30_000_000  # more than may come
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n%b\r\n"
    with connect(slow) as sock:
        sock.settimeout(5)
        sock.sendall(head % (size, b""))
        assert sock.recv(65536).startswith(b"HTTP/1.1 413 ")
        assert read_all(sock) == b""  # and not for ever after it either
    for more in (b"", b"Connection: close\r\n"):
        with connect(slow) as sock:
            sock.sendall(head % (size, more) + bytes(size))
            assert sock.recv(65536).startswith(b"HTTP/1.1 413 ")
            if not more:
                sock.sendall(request(drawing(), b"Connection: close"))
            assert read_all(sock).startswith(b"HTTP/1.1 200 " if not more else b"")


@pytest.mark.skipif(sys.platform != "linux", reason="the system's memory of a process is read there")
def test_a_connection_keeps_nothing_of_a_request_that_was_refused(folder: Path) -> None:
    memory = r'process_resident_memory_bytes\{worker="0"\}'
    with Server(make_bundle(folder / "forgets"), free_log(folder)) as server, contextlib.ExitStack() as open_ones:

        def ask(times: int) -> float:
            for _ in range(times):
                sock = open_ones.enter_context(connect(server))
                sock.sendall(request(bytes(60_000), b"X-Timeout-Ms: no"))
                assert sock.recv(65536).startswith(b"HTTP/1.1 400 ")
            return metric(server, memory)

        before = ask(50)
        assert 0 < before < ask(300) < before + 0.5 * 300 * 60_000


def test_who_waits_for_leave_to_send_gets_the_refusal_and_sends_nothing(slow: Server) -> None:
    with connect(slow) as sock:
        sock.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 30000000\r\n")
        sock.sendall(b"Expect: 100-continue\r\n\r\n")
        assert read_all(sock).startswith(b"HTTP/1.1 413 ")


def test_a_compressed_input_is_refused_by_name(slow: Server) -> None:
    answer = slow.client.post("/predict", content=gzip.compress(drawing()), headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 415
    assert "'gzip'" in answer.json()["detail"]


def test_what_is_no_request_is_counted_and_logged_too(folder: Path) -> None:
    with Server(make_bundle(folder / "garbage"), free_log(folder), log="json", head_s=0.3) as server:
        for sent in (b"garbage\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000, b"GET /"):
            with connect(server) as sock:
                sock.sendall(sent)
                read_all(sock)
        for kind in ("bad-request", "head-too-large", "too-slow"):
            assert metric(server, rf'proj_errors_total\{{kind="{kind}"\}}') == 1
        lines = [json.loads(line) for line in server.log.splitlines()]
    refused = [(line["status"], line["route"], line["client"]) for line in lines if line.get("route") == "other"]
    assert refused == [(status, "other", "127.0.0.1") for status in (400, 431, 408)]


@pytest.mark.parametrize("value", ["0", "-1", "abc", "1.5", ""])
def test_a_deadline_that_is_no_number_is_refused(slow: Server, value: str) -> None:
    answer = slow.client.post("/predict", content=drawing(), headers={"X-Timeout-Ms": value})
    assert answer.status_code == 400
    assert "X-Timeout-Ms" in answer.json()["detail"]


def test_top_keeps_the_most_probable_classes(slow: Server) -> None:
    whole = slow.client.post("/predict", content=drawing()).json()
    three = slow.client.post("/predict?top=3", content=drawing()).json()
    best = sorted(whole["probabilities"], key=whole["probabilities"].get, reverse=True)[:3]
    assert list(three["probabilities"]) == best
    assert three["label"] == whole["label"]


@pytest.mark.parametrize("query", ["top=0", "top=-1", "top=x", "top=", "top=1&top=2"])
def test_a_top_that_is_no_number_is_refused(slow: Server, query: str) -> None:
    answer = slow.client.post(f"/predict?{query}", content=drawing())
    assert answer.status_code == 400
    assert "top" in answer.json()["detail"]


def test_pipelined_requests_are_answered_in_their_order(slow: Server) -> None:
    with connect(slow) as sock:
        sock.sendall(request(drawing(1)) + request(b"", path=b"/nowhere") + request(drawing(2), b"Connection: close"))
        answers = read_all(sock)
    assert re.findall(rb"HTTP/1.1 (\d+) ", answers) == [b"200", b"404", b"200"]
