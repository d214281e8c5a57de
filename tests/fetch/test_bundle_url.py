"""`proj.fetch.bundle_url`: a bundle at an address is fetched, kept up to date, and never half of one version."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import File, Server, free_port, serving

from proj.errors import ProjError, RunNotFound, Unreachable
from proj.fetch import download
from proj.fetch.bundle_url import bundle_from_url


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "BACKOFF_S", 0.02)
    with serving() as s:
        publish(s, "v1")
        yield s


def publish(server: Server, version: str, under: str = "/models/b") -> None:
    server.files[f"{under}/bundle.json"] = File(f'{{"v": "{version}"}}'.encode(), etag=f'"{version}-j"')
    server.files[f"{under}/model.onnx"] = File(version.encode() * 1000, etag=f'"{version}-m"')


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def of(version: str) -> dict[str, bytes]:
    return {"bundle.json": f'{{"v": "{version}"}}'.encode(), "model.onnx": version.encode() * 1000}


@pytest.mark.parametrize("end", ["", "/", "/bundle.json"])
def test_fetched_once_and_asked_every_time(end: str, server: Server, tmp_path: Path) -> None:
    url = f"{server.url}/models/b{end}"
    first = bundle_from_url(url, tmp_path)
    assert content(first) == of("v1")
    server.asked.clear()
    assert bundle_from_url(url, tmp_path) == first
    assert [h["if-none-match"] for _, _, h in server.asked] == ['"v1-j"', '"v1-m"']


def test_a_new_version_has_a_folder_of_its_own(server: Server, tmp_path: Path) -> None:
    url = f"{server.url}/models/b"
    first = bundle_from_url(url, tmp_path)
    publish(server, "v2")
    second = bundle_from_url(url, tmp_path)
    assert (content(first), content(second)) == (of("v1"), of("v2"))
    publish(server, "v3")
    third = bundle_from_url(url, tmp_path)
    assert (first.exists(), second.exists(), content(third)) == (False, True, of("v3"))


def test_a_change_of_one_file_keeps_the_other(server: Server, tmp_path: Path) -> None:
    url = f"{server.url}/models/b"
    bundle_from_url(url, tmp_path)
    server.files["/models/b/bundle.json"] = File(b"{}", etag='"other"')
    assert content(bundle_from_url(url, tmp_path)) == {**of("v1"), "bundle.json": b"{}"}


def test_the_bundle_inside_a_run_directory(server: Server, tmp_path: Path) -> None:
    publish(server, "v9", "/models/digits/run/bundle")
    assert content(bundle_from_url(f"{server.url}/models/digits/run", tmp_path)) == of("v9")


def test_a_bucket(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
    assert content(bundle_from_url("gs://models/b", tmp_path)) == of("v1")


@pytest.mark.parametrize("left", ['{"folder": "gone", "validators": {}}', "{broken", '{"folder": 1}', "[]"])
def test_a_cache_that_was_damaged_is_built_anew(left: str, server: Server, tmp_path: Path) -> None:
    folder = bundle_from_url(f"{server.url}/models/b", tmp_path)
    (folder.parent / "current.json").write_text(left, encoding="utf-8")
    assert content(bundle_from_url(f"{server.url}/models/b", tmp_path)) == of("v1")


@pytest.mark.parametrize(
    ("url", "error", "says"),
    [
        ("{url}/none", RunNotFound, "no bundle is at"),
        ("{url}/half", RunNotFound, "model.onnx"),
        ("{url}/secret", Unreachable, "403"),
        ("http://127.0.0.1:{free}/b", Unreachable, "cannot be reached"),
        ("s3://bucket/b", RunNotFound, "s3://bucket/b is not read"),
        ("hf://owner/model", RunNotFound, "is not read"),
    ],
)
def test_bad_addresses(url: str, error: type[ProjError], says: str, server: Server, tmp_path: Path) -> None:
    server.files["/half/bundle.json"] = File(b"{}")
    server.files["/secret/bundle.json"] = File(always=403)
    with pytest.raises(error, match=says):
        bundle_from_url(url.format(url=server.url, free=free_port()), tmp_path, timeout_s=2)


def test_unreachable_names_the_copy_got_before(server: Server, tmp_path: Path) -> None:
    url = f"{server.url}/models/b"
    folder = bundle_from_url(url, tmp_path)
    server.files["/models/b/bundle.json"] = File(always=500)
    with pytest.raises(Unreachable) as caught:
        bundle_from_url(url, tmp_path, timeout_s=2)
    assert str(folder) in caught.value.next
    assert content(folder) == of("v1")


def test_parallel_calls_get_one_folder(server: Server, tmp_path: Path) -> None:
    got: list[Path] = []
    threads = [
        threading.Thread(target=lambda: got.append(bundle_from_url(f"{server.url}/models/b", tmp_path)))
        for _ in range(4)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(got) == 4
    assert len(set(got)) == 1
    assert content(got[0]) == of("v1")
