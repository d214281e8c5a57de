"""Host and Origin: what another site's page can and cannot do."""

from __future__ import annotations

from pathlib import Path

import pytest
from serving import Server, drawing, free_log

from proj.serve.guard import is_loopback, matches, same_host


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("localhost:1234", 200), ("LOCALHOST.", 200), ("127.0.0.1", 200),
        ("[::1]:80", 200),
        ("evil.example", 421), ("localhost.evil.example", 421), ("evil.example:8000", 421),
        ("127.0.0.2", 421),
        ("[::2]", 421), ("0.0.0.0", 421), ("", 421), ("localhost:8000@evil.example", 421),
        ("localhost/x", 421),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/health", "/model"])
def test_on_loopback_only_loopback_names_are_answered(server: Server, host: str, status: int, path: str) -> None:
    response = server.client.get(path, headers={"Host": host})
    assert response.status_code == status
    if status != 200:
        assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("origin", "status"),
    [("http://localhost:8000", 200), ("https://localhost:8000", 200), ("http://localhost", 403),
     ("null", 403),
     ("http://localhost:8001", 403), ("http://evil.example", 403), ("http://evil.example:8000", 403),
     ("", 403)],
)  # fmt: skip
def test_origin_must_be_host(server: Server, origin: str, status: int) -> None:
    headers = {"Host": "localhost:8000", "Origin": origin}
    response = server.client.post("/predict", files={"file": ("a.png", drawing())}, headers=headers)
    assert response.status_code == status


def test_on_an_open_bind_allow_host_names_the_hosts_and_probes_need_none(folder: Path, digits: Path) -> None:
    with Server(digits, free_log(folder), host="0.0.0.0", allow_host=["api.example.com", "*.lab.example"]) as server:

        def status(host: str, path: str = "/model") -> int:
            return server.client.get(path, headers={"Host": host}).status_code

        assert status("api.example.com") == status("API.example.com:8000") == status("a.lab.example") == 200
        assert status("localhost") == status("lab.example") == status("api.example.com.evil.example") == 421
        assert status("10.1.2.3:8000", "/health") == status("10.1.2.3:8000", "/ready") == 200
        foreign = {"Host": "api.example.com", "Origin": "https://evil.example"}
        assert server.client.get("/model", headers=foreign).status_code == 403
        own = {"Host": "api.example.com", "Origin": "https://api.example.com"}
        assert server.client.get("/model", headers=own).status_code == 200


def test_on_an_open_bind_any_host_is_answered_by_default(folder: Path, digits: Path) -> None:
    with Server(digits, free_log(folder), host="0.0.0.0") as server:
        assert server.client.get("/model", headers={"Host": "anything.example"}).status_code == 200
        foreign = {"Host": "anything.example", "Origin": "https://evil.example"}
        assert server.client.get("/model", headers=foreign).status_code == 403
        assert "allow-host" in server.log


@pytest.mark.parametrize(
    ("host", "pattern", "fits"),
    [("a.b:80", "a.b", True), ("a.b:80", "a.b:80", True), ("a.b:81", "a.b:80", False),
     ("a.b", "a.b:80", False),
     ("x.a.b", "*.a.b", True), ("xa.b", "*.a.b", False), ("[::1]:8000", "[::1]", True),
     ("a b", "a b", False)],
)  # fmt: skip
def test_matches(host: str, pattern: str, fits: bool) -> None:
    assert matches(host, pattern) is fits


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [("https://a.b", "a.b", True), ("https://a.b", "a.b:443", True), ("http://a.b:80", "a.b", True),
     ("http://a.b", "a.b:443", False), ("a.b", "a.b", False), ("http://a.b/", "a.b", False)],
)  # fmt: skip
def test_same_host(origin: str, host: str, same: bool) -> None:
    assert same_host(origin, host) is same


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False),
     ("::", False),
     ("10.0.0.1", False), ("localhost.example", False)],
)  # fmt: skip
def test_is_loopback(host: str, local: bool) -> None:
    assert is_loopback(host) is local
