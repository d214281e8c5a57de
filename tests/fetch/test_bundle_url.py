"""`proj.fetch.bundle_url`: a bundle at an address is fetched, kept up to date, and never half of one version."""

from __future__ import annotations

import json
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


def bucket(server: Server, objects: dict[str, str]) -> None:
    """The list of a bucket "models": names and times."""
    items = [{"name": n, "updated": t} for n, t in sorted(objects.items())]
    server.files["/storage/v1/b/models/o"] = File(json.dumps({"items": items}).encode())


def test_the_newest_of_a_buckets_folders(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
    publish(server, "one", "/models/digits/1")
    publish(server, "two", "/models/digits/2/bundle")
    objects = {
        "digits/1/bundle.json": "2026-03-01T00:00:00.5Z",
        "digits/2/bundle/bundle.json": "2026-03-02T00:00:00.1Z",
        "digits/2/run.json": "2026-03-08T00:00:00Z",
        "digits/deep/er/x/bundle.json": "2026-03-09T00:00:00Z",
        "digits-other/9/bundle.json": "2026-03-09T00:00:00Z",
        "digits/half/model.onnx": "2026-03-09T00:00:00Z",
    }
    bucket(server, objects)
    first = bundle_from_url("gs://models/digits", tmp_path)
    assert content(first) == of("two")
    publish(server, "three", "/models/digits/3")
    bucket(server, {**objects, "digits/3/bundle.json": "2026-03-03T00:00:00Z"})
    assert content(bundle_from_url("gs://models/digits/", tmp_path)) == of("three")
    assert content(first) == of("two")


def test_a_bucket_that_may_not_be_listed_or_holds_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
    for said in (b"{}", b"[]", b"<html>", b'{"items": []}'):
        server.files["/storage/v1/b/models/o"] = File(said)
        with pytest.raises(RunNotFound, match="no bundle is at gs://models/none"):
            bundle_from_url("gs://models/none", tmp_path)
    server.files["/storage/v1/b/models/o"] = File(always=403)
    with pytest.raises(Unreachable, match="gs://models/none may not be listed"):
        bundle_from_url("gs://models/none", tmp_path)


INDEX = """<html><body><h1>Index of /models/</h1><a href="../">../</a><a href="?C=M;O=D">Date</a>
<a href="old/">old/</a><a href="/models/new%20one/">new one/</a><a href="bare/">bare/</a><a href="a/b/">deep</a>
<a href="file.txt">file</a><a href="https://elsewhere.example/models/x/">x</a><a>none</a><a href="./">here</a>"""


def test_the_newest_of_a_web_servers_folders(server: Server, tmp_path: Path) -> None:
    server.files["/models/"] = File(INDEX.encode(), headers={"Content-Type": "text/html; charset=utf-8"})
    publish(server, "old", "/models/old")
    publish(server, "new", "/models/new%20one/bundle")
    server.files["/models/old/bundle.json"].modified = "Sun, 01 Mar 2026 09:00:00 GMT"
    server.files["/models/new%20one/bundle/bundle.json"].modified = "Mon, 02 Mar 2026 09:00:00 GMT"
    assert content(bundle_from_url(f"{server.url}/models", tmp_path)) == of("new")
    server.files["/models/old/bundle.json"].modified = "Tue, 03 Mar 2026 09:00:00 GMT"
    assert content(bundle_from_url(f"{server.url}/models", tmp_path)) == of("old")
    asked = {path for _, path, _ in server.asked}
    assert not [p for p in asked if "elsewhere" in p or "/a/b" in p or "file.txt" in p]


@pytest.mark.parametrize("kind", ["application/json", "text/html"])
def test_a_page_that_is_no_list_of_folders(server: Server, tmp_path: Path, kind: str) -> None:
    server.files["/models/"] = File(b"<p>hello", headers={"Content-Type": kind})
    with pytest.raises(RunNotFound, match="no bundle is at"):
        bundle_from_url(f"{server.url}/models", tmp_path)


def test_dates_of_one_folder_are_not_asked_of_another(server: Server, tmp_path: Path) -> None:
    """A server without ETags says "not modified since" of every file that is older than the one we have."""
    index = '<a href="1/">1</a><a href="2/">2</a>'
    server.files["/models/"] = File(index.encode(), headers={"Content-Type": "text/html"})
    for n, day in ((1, 1), (2, 2)):
        date = f"Mon, 0{day} Mar 2026 09:00:00 GMT"
        for name, data in of(f"v{n}").items():
            server.files[f"/models/{n}/{name}"] = File(data, modified=date)
    server.files["/models/1/model.onnx"].modified = server.files["/models/2/model.onnx"].modified
    assert content(bundle_from_url(f"{server.url}/models", tmp_path)) == of("v2")
    server.files["/models/1/bundle.json"].modified = "Tue, 03 Mar 2026 09:00:00 GMT"
    assert content(bundle_from_url(f"{server.url}/models", tmp_path)) == of("v1")


def test_a_texts_tokenizer_comes_too(server: Server, tmp_path: Path) -> None:
    server.files["/models/b/bundle.json"] = File(b'{"preprocess": {"encoding": "tokenizer"}}', etag='"1"')
    with pytest.raises(RunNotFound, match=r"tokenizer\.json"):
        bundle_from_url(f"{server.url}/models/b", tmp_path)
    server.files["/models/b/tokenizer.json"] = File(b"{}", etag='"t"')
    folder = bundle_from_url(f"{server.url}/models/b", tmp_path)
    assert set(content(folder)) == {"bundle.json", "model.onnx", "tokenizer.json"}
    assert bundle_from_url(f"{server.url}/models/b", tmp_path) == folder


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
