"""Who may ask: names, origins, keys, proxies; and what another site's page can and cannot do."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from heads import from_lines, head
from hypothesis import given
from hypothesis import strategies as st
from serving import Server, drawing, free_log

from proj.serve import keys, rate
from proj.serve.guard import Guard, is_loopback, matches, same_host
from proj.serve.head import Head
from proj.serve.settings import Settings

APP = "https://app.example.com"


def guard(folder: Path = Path(), **settings: object) -> Guard:
    return Guard(Settings.model_validate(settings), folder, 0)


def status(of: Guard, head: Head) -> int:
    refused = of.refusal(head)
    return refused.status if refused else 200


@pytest.mark.parametrize(
    ("host", "wanted"),
    [
        ("localhost", 200), ("localhost:1234", 200), ("LOCALHOST.", 200), ("127.0.0.1", 200),
        ("[::1]:80", 200),
        ("evil.example", 421), ("localhost.evil.example", 421), ("evil.example:8000", 421),
        ("127.0.0.2", 421),
        ("[::2]", 421), ("0.0.0.0", 421), ("", 421), ("localhost:8000@evil.example", 421),
        ("localhost/x", 421),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/health", "/model", "/predict", "/v2/models/x/infer"])
def test_on_loopback_only_loopback_names_are_answered(host: str, wanted: int, path: str) -> None:
    on = guard()
    for _ in range(2):  # a name that was good is remembered
        assert status(on, head(path, host=host)) == wanted


@pytest.mark.parametrize(
    ("origin", "wanted"),
    [("http://localhost:8000", 200), ("https://localhost:8000", 200), ("http://localhost", 403),
     ("null", 403), ("http://localhost:8001", 403), ("http://evil.example", 403), ("http://evil.example:8000", 403),
     ("", 403)],
)  # fmt: skip
def test_origin_must_be_host(origin: str, wanted: int) -> None:
    assert status(guard(), head("/predict", "POST", origin=origin)) == wanted


@pytest.mark.parametrize("name", ["host", "origin", "authorization", "content-length", "x-request-id"])
def test_a_header_that_comes_twice_is_refused(name: str) -> None:
    lines = [(b"host", b"localhost"), (name.encode(), b"localhost"), (name.encode(), b"localhost")]
    refused = guard().refusal(from_lines(lines))
    assert refused is not None
    assert refused.status == 400
    assert name in refused.detail


def test_on_an_open_bind_allow_host_names_the_hosts_and_probes_need_none() -> None:
    on = guard(host="0.0.0.0", allow_host=["api.example.com", "*.lab.example"])
    for host in ("api.example.com", "API.example.com:8000", "a.lab.example"):
        assert status(on, head(host=host)) == 200
    for host in ("localhost", "lab.example", "api.example.com.evil.example"):
        assert status(on, head(host=host)) == 421
    for path in ("/health", "/ready"):
        assert status(on, head(path, host="10.1.2.3:8000")) == 200
    assert status(on, head(host="10.1.2.3:8000")) == 421  # answering a probe does not make the name good
    assert status(on, head(host="api.example.com", origin="https://evil.example")) == 403
    assert status(on, head(host="api.example.com", origin="https://api.example.com")) == 200


def test_on_an_open_bind_any_host_is_answered_by_default() -> None:
    on = guard(host="0.0.0.0")
    assert status(on, head(host="anything.example")) == 200
    assert status(on, head(host="anything.example", origin="https://evil.example")) == 403


def test_hosts_that_are_remembered_do_not_grow() -> None:
    on = guard(host="0.0.0.0", allow_host=["*.lab.example"])
    for i in range(3000):
        assert status(on, head(host=f"x{i}.lab.example")) == 200
    assert len(on._hosts) <= 1024


# Pages of other origins


def sent(of: Guard, head: Head) -> dict[str, str]:
    return {k.decode(): v.decode() for k, v in of.response_headers(head)}


def test_without_cors_no_answer_says_a_word_of_it() -> None:
    on = guard()
    for origin in (APP, "http://localhost:8000"):
        said = sent(on, head(origin=origin))
        assert not [name for name in said if name.startswith("access-control") or name == "vary"]
    preflight = head("/predict", "OPTIONS", origin=APP, access_control_request_method="POST")
    assert status(on, preflight) == 403


def test_an_allowed_origin_may_ask_and_others_may_not() -> None:
    on = guard(cors=[APP, "http://localhost:3000"])
    for origin in (APP, "http://localhost:3000"):
        asked = head("/predict", "POST", origin=origin)
        assert status(on, asked) == 200
        assert sent(on, asked)["access-control-allow-origin"] == origin
    for origin in ("https://evil.example", "http://app.example.com", APP + ":8443", APP + ".evil.example", "null"):
        asked = head("/predict", "POST", origin=origin)
        assert status(on, asked) == 403
        assert "access-control-allow-origin" not in sent(on, asked)
    for asked in (head(), head(origin=APP), head(origin="https://evil.example")):  # caches must tell them apart
        assert sent(on, asked)["vary"] == "Origin"
        assert "access-control-allow-credentials" not in sent(on, asked)


@pytest.mark.parametrize(
    "origin", ["*", "null", "app.example.com", APP + "/", APP + "/x", "https://*.example.com", "https://a@b"]
)
def test_what_is_no_origin_is_no_setting(origin: str) -> None:
    with pytest.raises(ValueError, match="is not an origin"):
        Settings(cors=(origin,))


def test_origins_are_taken_as_browsers_write_them() -> None:
    on = guard(cors=["HTTPS://App.Example.com:443", "http://a.example:80", "http://b.example:443"])
    for origin in (APP, "http://a.example", "http://b.example:443"):
        assert status(on, head(origin=origin)) == 200


def test_a_preflight_is_granted_without_a_key(tmp_path: Path) -> None:
    keys.add(tmp_path / "keys.json", "ci")
    on = guard(cors=[APP], keys=str(tmp_path / "keys.json"))
    refused = on.refusal(head("/predict", "OPTIONS", origin=APP, access_control_request_method="POST"))
    assert refused is not None
    assert refused.status == 204
    assert "POST" in refused.headers["access-control-allow-methods"]
    allowed = refused.headers["access-control-allow-headers"].split(", ")
    assert {"authorization", "content-encoding", "content-type", "x-timeout-ms"} <= {*allowed}
    assert int(refused.headers["access-control-max-age"]) > 0
    assert status(on, head("/predict", "OPTIONS", origin=APP)) == 401  # no preflight, no grant


# Keys


@pytest.fixture
def keyed(tmp_path: Path) -> tuple[Guard, str]:
    token = keys.add(tmp_path / "keys.json", "ci")
    keys.add(tmp_path / "keys.json", "other")
    return guard(keys=str(tmp_path / "keys.json")), token


@pytest.mark.parametrize(
    "path",
    ["/predict", "/digits/predict", "/model", "/digits/model", "/models", "/metrics", "/v2", "/v2/", "/v2/health/live",
     "/v2/models/digits/infer", "/nowhere", "/pages", "/metrics/", "/models/", "/page", "", "//", "/a/b/", "/docs/x",
     "/Health", "/health/x", "/page/predict", "/page/model"],
)  # fmt: skip
def test_all_but_page_and_probes_needs_a_key(keyed: tuple[Guard, str], path: str) -> None:
    on, token = keyed
    refused = on.refusal(head(path))
    assert refused is not None
    assert refused.status == 401
    assert refused.headers["www-authenticate"].startswith("Bearer ")
    assert status(on, head(path, authorization=f"Bearer {token}")) == 200


@pytest.mark.parametrize(
    "path", ["/", "/health", "/ready", "/docs", "/openapi.json", "/page/page.js", "/digits/", "/favicon.ico"]
)
def test_page_and_probes_need_none(keyed: tuple[Guard, str], path: str) -> None:
    assert status(keyed[0], head(path)) == 200


def test_how_a_key_may_be_sent(keyed: tuple[Guard, str]) -> None:
    on, token = keyed
    for good in (f"Bearer {token}", f"bearer {token}", f"Bearer  {token} "):
        assert status(on, head(authorization=good)) == 200
    wrong = ["", "Bearer", "Bearer ", token, f"Basic {token}", f"Bearer {token}x", f"Bearer {token[:-1]}",
             f"Bearer {token.upper()}", "Bearer " + "a" * 10_000, f"Bearer {token} {token}"]  # fmt: skip
    for bad in wrong:
        refused = on.refusal(head(authorization=bad))
        assert refused is not None
        assert refused.status == 401
        assert token[5:15] not in refused.detail + str(refused.headers)


@given(value=st.binary(max_size=200))
def test_no_made_up_header_opens_the_door(value: bytes) -> None:
    lines = [(b"host", b"localhost"), (b"authorization", value)]
    assert status(SHUT, from_lines(lines)) == 401


SHUT = guard(keys="no-such-file.json")  # a worker that starts while the file is gone lets nobody in


def test_who_asks_is_a_name_and_an_address(keyed: tuple[Guard, str]) -> None:
    on, token = keyed
    assert on.who(head(authorization=f"Bearer {token}")) == "ci@127.0.0.1"
    assert on.who(head(authorization="Bearer nobody's")) == "127.0.0.1"
    assert guard().who(head(client="10.0.0.9")) == "10.0.0.9"


# Proxies


@pytest.mark.parametrize(
    ("peer", "said", "found"),
    [
        ("10.0.0.1", "1.2.3.4", "1.2.3.4"),
        ("10.0.0.1", "6.6.6.6, 1.2.3.4", "1.2.3.4"),  # what a client wrote itself stands to the left
        ("10.0.0.1", "6.6.6.6, 1.2.3.4, 10.0.0.2", "1.2.3.4"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "1.2.3.4:5678", "1.2.3.4"),
        ("10.0.0.1", "[2001:db8::5]:443", "2001:db8::5"),
        ("10.0.0.1", "2001:DB8::5", "2001:db8::5"),
        ("10.0.0.1", "1.2.3.4, unknown", "10.0.0.1"),
        ("10.0.0.1", "1.2.3.4, <b>, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("::ffff:10.0.0.1", "1.2.3.4", "1.2.3.4"),
        ("203.0.113.5", "1.2.3.4", "203.0.113.5"),  # not a proxy that is believed
        ("192.168.1.1", "1.2.3.4", "1.2.3.4"),
    ],
)
def test_forwarded_addresses_are_believed_from_proxies_only(peer: str, said: str, found: str) -> None:
    on = guard(proxies=["10.0.0.0/24", "192.168.1.1"])
    assert on.client(head(client=peer, x_forwarded_for=said)) == found
    assert guard().client(head(client=peer, x_forwarded_for=said)) == peer


@pytest.mark.parametrize("proxy", ["proxy.example.com", "10.0.0.0/33", "10.0.0.1:80", "*"])
def test_what_is_no_address_is_no_proxy(proxy: str) -> None:
    with pytest.raises(ValueError, match="is not an address"):
        Settings(proxies=(proxy,))


def test_each_proxy_may_add_a_line_of_its_own() -> None:
    lines = [(b"host", b"localhost"), (b"x-forwarded-for", b"6.6.6.6"), (b"x-forwarded-for", b"1.2.3.4")]
    asked = from_lines(lines, client="10.0.0.1")
    on = guard(proxies=["10.0.0.1"])
    assert status(on, asked) == 200
    assert on.client(asked) == "1.2.3.4"


@given(said=st.text(st.characters(codec="latin-1"), max_size=300))
def test_no_made_up_list_of_proxies_breaks_it(said: str) -> None:
    on = guard(proxies=["10.0.0.0/8"])
    assert on.client(head(client="10.0.0.1", x_forwarded_for=said))


# How often


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock stands at the start of a second: nobody's share comes back meanwhile."""
    now_s = float(int(time.monotonic()) + 1)
    monkeypatch.setattr(rate.time, "monotonic", lambda: now_s)


@pytest.mark.usefixtures("still")
def test_each_address_has_a_rate_of_its_own_and_public_paths_have_none(tmp_path: Path) -> None:
    rate.create(tmp_path, 1)
    on = guard(tmp_path, rate=3)
    assert [status(on, head()) for _ in range(5)] == [200, 200, 200, 429, 429]
    assert status(on, head(client="10.0.0.7")) == 200
    assert status(on, head("/health")) == status(on, head("/page/page.css")) == 200
    refused = on.refusal(head())
    assert refused is not None
    assert 1 <= int(refused.headers["retry-after"]) <= 2
    assert "3 requests a second" in refused.detail


@pytest.mark.usefixtures("still")
def test_an_ipv6_network_is_one_asker(tmp_path: Path) -> None:
    rate.create(tmp_path, 1)
    on = guard(tmp_path, rate=2)
    assert [status(on, head(client=f"2001:db8::{i}")) for i in range(3)] == [200, 200, 429]
    assert status(on, head(client="2001:db8:0:1::1")) == 200


@pytest.mark.usefixtures("still")
def test_each_key_has_a_rate_of_its_own_wherever_it_comes_from(tmp_path: Path) -> None:
    rate.create(tmp_path, 1)
    a, b = (f"Bearer {keys.add(tmp_path / 'keys.json', name)}" for name in "ab")
    on = guard(tmp_path, rate=2, keys=str(tmp_path / "keys.json"))
    assert [status(on, head(client=f"10.0.0.{i}", authorization=a)) for i in range(3)] == [200, 200, 429]
    assert status(on, head(authorization=b)) == 200
    assert [status(on, head()) for _ in range(5)] == [401] * 5


# Over HTTP


def test_a_refusal_is_a_problem_with_the_headers_of_every_answer(server: Server) -> None:
    for headers, wanted in (({"Host": "evil.example"}, 421), ({"Origin": "https://evil.example"}, 403)):
        answer = server.client.post("/predict", files={"file": ("a.png", drawing())}, headers=headers)
        assert answer.status_code == wanted
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["x-request-id"]


def test_a_server_with_keys_cors_and_a_rate(folder: Path, digits: Path) -> None:
    """Two workers: what one counts or learns holds for the other."""
    file = folder / "keys-of-a-server.json"
    token, gone = keys.add(file, "ci"), keys.add(file, "gone")
    flags = {"workers": 2, "keys": str(file), "cors": [APP], "rate": 6.0, "log": "json"}
    with Server(digits, free_log(folder), **flags) as server:
        ask = server.client.get
        assert ask("/model").status_code == ask("/metrics").status_code == ask("/v2").status_code == 401
        assert server.client.post("/predict").status_code == 401
        assert ask("/").status_code == ask("/openapi.json").status_code == ask("/health").status_code == 200
        mine = {"Authorization": f"Bearer {token}", "Origin": APP}
        first = ask("/model", headers={**mine, "X-Request-ID": "mine-1"})
        assert first.status_code == 200
        assert first.headers["access-control-allow-origin"] == APP
        assert first.headers["x-request-id"] == "mine-1"
        start, statuses = time.monotonic(), [first.status_code]
        while statuses[-1] == 200:
            statuses.append(ask("/model", headers=mine | {"Connection": "close"}).status_code)
        assert statuses[-1] == 429
        assert statuses.count(200) <= 6 * (time.monotonic() - start + 2)  # of 6 a second
        assert ask("/model", headers={"Authorization": f"Bearer {gone}"}).status_code == 200
        keys.revoke(file, "gone")
        server.wait_for('"route":"/model"')
        time.sleep(1.1)
        late = [ask("/model", headers={"Authorization": f"Bearer {gone}", "Connection": "close"}) for _ in range(6)]
        assert {a.status_code for a in late} == {401}
        assert '"request_id":"mine-1"' in server.log
        assert re.search(r'"route":"/predict","status":401', server.log)
        assert '"key":"ci"' in server.log
        for secret in (token, gone, *(k.sha256 for k in keys.read(file))):
            assert secret[5:20] not in server.log


# The parts


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
