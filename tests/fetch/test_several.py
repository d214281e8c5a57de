"""A source that names several files at once: `https://HOST/{a,b}.npy`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import File, Server, serving

from proj.errors import ConfigError, DataError, Unreachable
from proj.fetch import download
from proj.fetch.get import Fetched, fetch, present
from proj.fetch.source import canonical, each


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as s:
        s.files = {f"/x/{n}.npy": File(n.encode() * 1000, etag=f'"{n}"') for n in ("a", "b%20c", "d")}
        yield s


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "BACKOFF_S", 0.02)


def get(source: str, raw: Path, *, sha256: str = "") -> Fetched:
    return fetch(source, default="", raw=raw, task="demo", timeout_s=2, sha256=sha256)


def test_all_come_into_one_folder_once(server: Server, tmp_path: Path) -> None:
    source = f"{server.url}/x/{{a,b%20c}}.npy"
    assert not present(source, default="", raw=tmp_path, task="demo")
    got = get(source, tmp_path)
    assert {p.name: p.read_bytes()[:3] for p in got.path.iterdir()} == {"a.npy": b"aaa", "b c.npy": b"b%2"}
    assert got.source == source
    assert present(source, default="", raw=tmp_path, task="demo")
    assert get(source, tmp_path) == got
    assert len(server.asked) == 2
    assert not list((tmp_path / ".fetched").glob("*.part*"))


def test_those_that_are_there_are_not_sent_again(server: Server, tmp_path: Path) -> None:
    source = f"{server.url}/x/{{a,d}}.npy"
    server.files["/x/d.npy"].always = 503
    with pytest.raises(Unreachable):
        get(source, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [".fetched"]
    server.files["/x/d.npy"].always = 0
    server.files["/x/a.npy"].drops = [0, 0, 0, 0, 0, 0, 0, 0]  # a body would never arrive
    assert len(list(get(source, tmp_path).path.iterdir())) == 2


def test_one_that_is_missing_is_named(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing is at .*/x/e\.npy"):
        get(f"{server.url}/x/{{a,e}}.npy", tmp_path)


def test_two_of_one_name_and_one_digest_for_several(server: Server, tmp_path: Path) -> None:
    server.files |= {f"/{n}/x.npy": File(b"x") for n in "ab"}
    with pytest.raises(DataError, match="called the same"):
        get(f"{server.url}/{{a,b}}/x.npy", tmp_path)
    with pytest.raises(ConfigError, match="is of one file"):
        get(f"{server.url}/x/{{a,d}}.npy", tmp_path, sha256="0" * 64)


@pytest.mark.parametrize("source", ["https://h/{a}.npy", "https://h/a,b.npy", "/a/{b,c}", "https://h/{a,b}/{c,d}"])
def test_what_names_one_source(source: str) -> None:
    assert each(source) == [source]


def test_names_hide_what_a_single_address_hides() -> None:
    assert each("gs://b/{x,y z}.npy") == ["gs://b/x.npy", "gs://b/y z.npy"]
    assert (
        canonical("https://me:secret@h/{a,b%20c}.npy?token=1") == "https://h/{a,b%20c}.npy"  # pragma: allowlist secret
    )  # pragma: allowlist secret
