"""`proj.fetch`: every kind of source, over a real server, with the faults that networks and disks have."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest
from loopback import File, Server, free_port, serving

from proj import errors
from proj.errors import ConfigError, DataError, MissingExtra, ProjError, ResourceError, Unreachable
from proj.fetch import download
from proj.fetch.get import Fetched, fetch

CONTENT = bytes(range(256)) * 2000
DIGITS = "package:sklearn/datasets/data/digits.csv.gz"
PHOTOS = {"paper/1.jpg": b"one", "glass/2.jpg": b"two"}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as s:
        yield s


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "BACKOFF_S", 0.02)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return tmp_path / "raw"


def get(source: str, raw: Path, default: str = "", **options: Any) -> Fetched:
    return fetch(source, default=default, raw=raw, task="demo", **{"timeout_s": 2.0, **options})


def zip_bytes(files: dict[str, bytes] = PHOTOS) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as z:
        for name, content in files.items():
            z.writestr(name, content)
    return file.getvalue()


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def data_in(raw: Path) -> set[str]:
    """Names of everything in raw/ but the notes."""
    return {p.name for p in raw.iterdir() if p.name != ".fetched"} if raw.exists() else set()


def test_a_folder_is_read_in_place(tmp_path: Path, raw: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "a.jpg").write_bytes(b"x")
    assert get(str(mine), raw) == Fetched(mine, mine.as_posix(), True)
    assert tree(mine) == {"a.jpg": b"x"}
    assert not raw.exists()


def test_a_file_is_read_in_place_and_its_digest_checked(tmp_path: Path, raw: Path) -> None:
    mine = tmp_path / "mine.csv"
    mine.write_bytes(b"a,b\n")
    right = hashlib.sha256(b"a,b\n").hexdigest()
    assert get(str(mine), raw, sha256=f"sha256:{right.upper()}").path == mine
    with pytest.raises(DataError, match=right):
        get(str(mine), raw, sha256="0" * 64)


def test_a_relative_path_and_a_home_path(tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert get("mine", raw).source == get("~/mine", raw).source == (tmp_path / "mine").as_posix()


def test_an_archive_is_unpacked_once_and_again_when_it_changed(tmp_path: Path, raw: Path) -> None:
    mine = tmp_path / "photos.zip"
    mine.write_bytes(zip_bytes())
    first = get(str(mine), raw)
    assert tree(first.path) == PHOTOS
    assert (first.in_place, first.path.parent) == (False, raw)
    assert first.path.name.startswith("demo-")
    inode = first.path.stat().st_ino
    assert get(str(mine), raw) == first
    assert first.path.stat().st_ino == inode
    mine.write_bytes(zip_bytes({**PHOTOS, "metal/3.jpg": b"three"}))
    assert "metal/3.jpg" in tree(get(str(mine), raw).path)


def test_the_digits_of_an_installed_package_without_importing_it(raw: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from proj.fetch.get import fetch;"
        f"print(fetch('default', default={DIGITS!r}, raw=Path({str(raw)!r}), task='digits').path);"
        "assert 'sklearn' not in sys.modules and 'numpy' not in sys.modules and 'torch' not in sys.modules"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert Path(said.strip()) == raw / "digits" / "digits.csv.gz"
    assert [p.name for p in (raw / "digits").iterdir()] == ["digits.csv.gz"]
    assert len(gzip.decompress((raw / "digits" / "digits.csv.gz").read_bytes()).splitlines()) == 1797
    note = json.loads((raw / ".fetched" / "digits.json").read_text(encoding="utf-8"))
    assert (note["source"], note["files"]) == (DIGITS, 1)
    assert note["sha256"] == hashlib.sha256((raw / "digits" / "digits.csv.gz").read_bytes()).hexdigest()


def test_a_file_over_http(server: Server, raw: Path) -> None:
    server.files["/data/table.csv"] = File(CONTENT)
    got = get("default", raw, default=f"{server.url}/data/table.csv")
    assert (got.path, got.in_place) == (raw / "demo" / "table.csv", False)
    assert got.path.read_bytes() == CONTENT
    assert data_in(raw) == {"demo"}
    assert get("default", raw, default=f"{server.url}/data/table.csv") == got
    assert len(server.asked) == 1


def test_the_default_named_in_full_is_the_default(server: Server, raw: Path) -> None:
    server.files["/a.csv"] = File(b"1")
    get(f"{server.url}/a.csv", raw, default=f"{server.url}/a.csv")
    assert data_in(raw) == {"demo"}


def test_two_sources_have_two_folders(server: Server, raw: Path) -> None:
    server.files |= {"/a.csv": File(b"a"), "/b.csv": File(b"b")}
    a, b = get(f"{server.url}/a.csv", raw).path, get(f"{server.url}/b.csv", raw).path
    assert (a.read_bytes(), b.read_bytes(), len(data_in(raw))) == (b"a", b"b", 2)


@pytest.mark.parametrize("headers", [{}, {"Content-Disposition": 'attachment; filename="../p.zip"'}])
@pytest.mark.parametrize("path", ["/photos.zip", "/download"])
def test_an_archive_over_http(path: str, headers: dict[str, str], server: Server, raw: Path) -> None:
    server.files[path] = File(zip_bytes({f"top/{n}": c for n, c in PHOTOS.items()}), headers=headers)
    assert tree(get(f"{server.url}{path}?id=7", raw).path) == PHOTOS


def test_a_tar_over_http(server: Server, raw: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:xz") as t:
        for name, content in PHOTOS.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            t.addfile(info, io.BytesIO(content))
    server.files["/p.tar.xz"] = File(file.getvalue())
    assert tree(get(f"{server.url}/p.tar.xz", raw).path) == PHOTOS


def test_a_bucket(server: Server, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url.removeprefix("http://"))
    server.files["/bkt/full/numpy%20bitmap/sea%20turtle.npy"] = File(CONTENT)
    got = get("gs://bkt/full/numpy bitmap/sea turtle.npy", raw)
    assert got.path.name == "sea turtle.npy"
    assert got.path.read_bytes() == CONTENT
    assert got.source == "gs://bkt/full/numpy bitmap/sea turtle.npy"


def test_redirects_are_followed_and_secrets_kept_out_of_records(server: Server, raw: Path) -> None:
    server.files["/old"] = File(always=302, headers={"Location": f"{server.url}/new.csv"})
    server.files["/new.csv"] = File(b"new")
    # pragma: allowlist nextline secret
    source = f"{server.url}/old?v=2&token=hush&X-Goog-Signature=hush".replace("http://", "http://me:hush@")
    got = get(source, raw)
    assert (got.path.name, got.path.read_bytes()) == ("new.csv", b"new")
    assert got.source == f"{server.url}/old?v=2"
    assert not any("hush" in p.read_text(encoding="utf-8") for p in (raw / ".fetched").glob("*.json"))
    with pytest.raises(DataError) as caught:
        get(source.replace("/old", "/none"), raw)
    assert "hush" not in str(caught.value)


def test_https_does_not_lead_to_http(raw: Path) -> None:
    attempt = download._Attempt(httpx.Client(), "https://host/a.zip", raw, "by hand", "")
    for address, right in (("https://other/a.zip", True), ("http://host/a.zip", False)):
        answer = httpx.Response(200, request=httpx.Request("GET", address))
        with nullcontext() if right else pytest.raises(Unreachable, match="without https"):
            attempt._judge(answer)


def test_a_server_that_calls_gzip_an_encoding_does_not_change_the_file(server: Server, raw: Path) -> None:
    packed = gzip.compress(b"1,2,3\n")
    server.files["/a.csv.gz"] = File(packed, headers={"Content-Encoding": "gzip"})
    server.files["/a.csv"] = File(packed, headers={"Content-Encoding": "gzip"})
    assert get(f"{server.url}/a.csv.gz", raw).path.read_bytes() == packed
    assert get(f"{server.url}/a.csv", raw).path.read_bytes() == b"1,2,3\n"


@pytest.mark.parametrize("known", [{"etag": '"v1"'}, {"modified": "Wed, 01 Jan 2025 00:00:00 GMT"}])
def test_a_broken_connection_is_resumed(known: dict[str, str], server: Server, raw: Path) -> None:
    server.files["/a.npy"] = File(CONTENT, drops=[100_000, 200_000], **known)  # type: ignore[arg-type]
    assert get(f"{server.url}/a.npy", raw).path.read_bytes() == CONTENT
    ranges = [h.get("range") for h in server.asked_for("/a.npy")]
    assert ranges == [None, "bytes=100000-", "bytes=300000-"]


@pytest.mark.parametrize("file", [File(CONTENT, drops=[99], ranges=False, etag='"v"'), File(CONTENT, drops=[99])])
def test_a_server_without_ranges_or_versions_starts_anew(file: File, server: Server, raw: Path) -> None:
    server.files["/a.npy"] = file
    assert get(f"{server.url}/a.npy", raw).path.read_bytes() == CONTENT
    assert len(server.asked) == 2


def test_a_file_that_changed_in_between_is_not_mixed(server: Server, raw: Path) -> None:
    server.files["/a.npy"] = File(CONTENT, drops=[1000] * 9, etag='"v1"', ranges=False)
    with pytest.raises(Unreachable):
        get(f"{server.url}/a.npy", raw)
    server.files["/a.npy"] = File(CONTENT[::-1], etag='"v2"')
    assert get(f"{server.url}/a.npy", raw).path.read_bytes() == CONTENT[::-1]
    assert server.asked[-1][2]["if-range"] == '"v1"'


def test_a_later_call_goes_on_where_the_first_gave_up(server: Server, raw: Path) -> None:
    url = f"{server.url}/a.npy"
    server.files["/a.npy"] = File(CONTENT, etag='"v"', drops=[50_000, 0, 0, 0, 0, 0])
    with pytest.raises(Unreachable, match=r"50\.0 kB are kept"):
        get(url, raw)
    assert data_in(raw) == set()
    server.files["/a.npy"].drops.clear()
    assert get(url, raw).path.read_bytes() == CONTENT
    assert server.asked[-1][2]["range"] == "bytes=50000-"
    assert not list((raw / ".fetched").glob("*.part*"))


def test_a_part_that_is_already_whole(server: Server, raw: Path) -> None:
    server.files["/a.npy"] = File(CONTENT, etag='"v"', says=len(CONTENT) + 1)
    assert get(f"{server.url}/a.npy", raw).path.read_bytes() == CONTENT
    assert [h.get("range") for h in server.asked_for("/a.npy")] == [None, f"bytes={len(CONTENT)}-"]


@pytest.mark.parametrize("file", [File(CONTENT, chunked=True), File(CONTENT, chunked=True, drops=[5000])])
def test_a_server_that_does_not_say_the_length(file: File, server: Server, raw: Path) -> None:
    server.files["/a.npy"] = file
    assert get(f"{server.url}/a.npy", raw).path.read_bytes() == CONTENT


def test_a_server_that_is_busy_for_a_moment(server: Server, raw: Path) -> None:
    server.files["/a.csv"] = File(b"ok", status=[503, 429])
    assert get(f"{server.url}/a.csv", raw, timeout_s=5).path.read_bytes() == b"ok"


def test_a_wrong_digest_names_both_and_keeps_nothing(server: Server, raw: Path) -> None:
    server.files["/a.csv"] = File(CONTENT)
    with pytest.raises(DataError, match=hashlib.sha256(CONTENT).hexdigest()) as caught:
        get(f"{server.url}/a.csv", raw, sha256="a" * 64)
    assert "a" * 64 in str(caught.value)
    assert data_in(raw) == set()
    assert not list((raw / ".fetched").glob("*.part*"))
    got = get(f"{server.url}/a.csv", raw, sha256=hashlib.sha256(CONTENT).hexdigest())
    assert got.path.read_bytes() == CONTENT


def test_another_digest_fetches_again(server: Server, raw: Path) -> None:
    server.files["/a.csv"] = File(b"old")
    get(f"{server.url}/a.csv", raw)
    server.files["/a.csv"] = File(b"new")
    got = get(f"{server.url}/a.csv", raw, sha256=hashlib.sha256(b"new").hexdigest())
    assert got.path.read_bytes() == b"new"


def test_another_default_replaces_the_first(server: Server, raw: Path) -> None:
    server.files |= {"/a.csv": File(b"a"), "/b.csv": File(b"b")}
    get("default", raw, default=f"{server.url}/a.csv")
    got = get("default", raw, default=f"{server.url}/b.csv")
    assert (got.path.read_bytes(), tree(raw / "demo")) == (b"b", {"b.csv": b"b"})


def test_data_that_were_checked_out_are_kept(raw: Path) -> None:
    (raw / "demo").mkdir(parents=True)
    (raw / "demo" / "digits.csv.gz").write_bytes(b"an older version")
    assert get("default", raw, default=DIGITS).path.read_bytes() == b"an older version"


@pytest.mark.parametrize("left", [[], [".gitkeep"]])
def test_an_empty_folder_is_not_taken_for_data(left: list[str], raw: Path) -> None:
    (raw / "demo").mkdir(parents=True)
    for name in left:
        (raw / "demo" / name).touch()
    assert get("default", raw, default=DIGITS).path.name == "digits.csv.gz"


# what is asked for: (the source, the error, what it says)
BAD: dict[str, tuple[str, type[ProjError], str]] = {
    "no default": ("default", ConfigError, "no default source"),
    "unknown scheme": ("ftp://host/file", ConfigError, "ftp:// is not known"),
    "no host": ("https://", ConfigError, "a part is missing"),
    "an odd address": ("http://[::1/x", ConfigError, "no address"),
    "bucket without key": ("gs://bucket", ConfigError, "a part is missing"),
    "bucket's folder": ("gs://bucket/folder/", ConfigError, "a part is missing"),
    "hub without owner": ("hf://datasets/name", ConfigError, "a part is missing"),
    "hub's model": ("hf://owner/name", ConfigError, "a part is missing"),
    "package without path": ("package:sklearn", ConfigError, "not a source"),
    "package, parent folder": ("package:sklearn/../x", ConfigError, "not a source"),
    "package, dotted": ("package:os.path/x", ConfigError, "not a source"),
    "package not installed": ("package:not_there_at_all/x.csv", MissingExtra, "uv sync --extra train"),
    "package without the file": ("package:sklearn/none.csv", DataError, "no file none.csv"),
    "no such path": ("{tmp}/photoz", DataError, "did you mean .*photos"),
    "no such path at all": ("{tmp}/a/b/c", DataError, "does not exist"),
    "broken local archive": ("{tmp}/broken.zip", DataError, "broken.zip cannot be unpacked"),
    "refused": ("http://127.0.0.1:{free}/a.zip", Unreachable, "data.source=PATH"),
    "no such host": ("https://no-such-host.invalid/a.zip", Unreachable, "no-such-host.invalid"),
    "404": ("{url}/none.zip", DataError, "404 Not Found"),
    "410": ("{url}/410", DataError, "410 Gone"),
    "401": ("{url}/401", Unreachable, "may not be read.*401"),
    "403": ("{url}/403", Unreachable, "may not be read.*403 Forbidden.*ask the lab.*data.source=PATH"),
    "400": ("{url}/400", Unreachable, "400"),
    "500 again and again": ("{url}/500", Unreachable, "tried 4 times.*500"),
    "redirects in a circle": ("{url}/circle", Unreachable, "redirects without end"),
    "redirect to another scheme": ("{url}/ftp", Unreachable, "cannot be reached"),
    "a server that never answers": ("{url}/slow", Unreachable, "no answer in time"),
    "a server that ends too early": ("{url}/short", Unreachable, "cannot be reached"),
    "a length that is no number": ("{url}/odd", Unreachable, "cannot be reached"),
    "a web page for an archive": ("{url}/page.zip", DataError, "web page"),
    "a broken archive": ("{url}/broken.zip", DataError, "broken.zip cannot be unpacked"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_sources(case: str, server: Server, tmp_path: Path, raw: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "broken.zip").write_bytes(zip_bytes()[:-30])
    server.files |= {f"/{n}": File(always=n) for n in (400, 401, 403, 410, 500)}
    server.files |= {
        "/circle": File(always=302, headers={"Location": "/circle"}),
        "/ftp": File(always=302, headers={"Location": "ftp://127.0.0.1/x"}),
        "/slow": File(b"x", wait_s=1.5),
        "/short": File(b"x" * 100, says=1000),
        "/odd": File(b"x", headers={"Content-Length": "many"}),
        "/page.zip": File(b"<!doctype html><title>Sign in</title>"),
        "/broken.zip": File(zip_bytes()[:-30]),
    }
    source, error, says = BAD[case]
    source = source.format(url=server.url, tmp=tmp_path, free=free_port())
    slow = 0.7 if case == "a server that never answers" else 4.0
    start = time.monotonic()
    with pytest.raises(error, match=says) as caught:
        get(source, raw, timeout_s=slow, help="ask the lab")
    assert type(caught.value) is error
    assert time.monotonic() - start < slow + 10
    assert data_in(raw) == set()


def test_a_digest_that_is_none_and_one_for_a_folder(tmp_path: Path, raw: Path) -> None:
    with pytest.raises(ConfigError, match="64 hex digits"):
        get(DIGITS, raw, sha256="abc")
    with pytest.raises(ConfigError, match="is a folder"):
        get(str(tmp_path), raw, sha256="0" * 64)
    with pytest.raises(ConfigError, match="is many"):
        get("hf://datasets/a/b", raw, sha256="0" * 64)


def test_a_full_disk_is_seen_beforehand(server: Server, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=errors.SPARE_BYTES + 1000))
    server.files["/a.npy"] = File(CONTENT)
    with pytest.raises(ResourceError, match=r"512.0 kB are to come, 50.0 MB are free"):
        get(f"{server.url}/a.npy", raw)
    assert data_in(raw) == set()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(b"a file where the folder should be")
    with pytest.raises(ResourceError, match="cannot be saved under"):
        get("default", tmp_path / "raw", default=DIGITS)


def test_four_processes_fetch_once(server: Server, raw: Path) -> None:
    server.files["/p.zip"] = File(zip_bytes(), wait_s=0.5)
    code = (
        "from pathlib import Path; from proj.fetch.get import fetch;"
        f"print(fetch('default', default='{server.url}/p.zip', raw=Path({str(raw)!r}), task='demo').path)"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert {p.communicate(timeout=60)[0].strip() for p in processes} == {str(raw / "demo")}
    assert [p.returncode for p in processes] == [0] * 4
    assert len(server.asked) == 1
    assert tree(raw / "demo") == PHOTOS


def test_four_threads_fetch_once(server: Server, raw: Path) -> None:
    server.files["/p.zip"] = File(zip_bytes(), wait_s=0.1)
    got: list[Fetched] = []
    work: Callable[[], None] = lambda: got.append(get(f"{server.url}/p.zip", raw))  # noqa: E731
    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(set(got)) == 1
    assert len(server.asked) == 1


def test_killed_on_the_way_nothing_is_half_there_and_the_next_goes_on(server: Server, raw: Path) -> None:
    server.files["/a.npy"] = File(CONTENT, etag='"v"', drops=[300_000])
    server.files["/a.npy"].status = []
    code = (
        "from pathlib import Path; from proj.fetch import download; from proj.fetch.get import fetch; import time;"
        "download.time.sleep = lambda s: (print('waits', flush=True), time.monotonic(), input());"
        f"fetch('default', default='{server.url}/a.npy', raw=Path({str(raw)!r}), task='demo')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"waits\n"
    process.kill()
    process.communicate()
    assert data_in(raw) == set()
    assert get("default", raw, default=f"{server.url}/a.npy").path.read_bytes() == CONTENT
    assert server.asked[-1][2]["range"] == "bytes=300000-"


def test_what_a_killed_unpacking_left_is_cleared(tmp_path: Path, raw: Path) -> None:
    mine = tmp_path / "p.zip"
    mine.write_bytes(zip_bytes())
    name = get(str(mine), raw).path.name
    shutil.rmtree(raw / name)
    for left in (f"{name}.new", f"{name}.new.unpack-1234", f"{name}.old"):
        (raw / ".fetched" / left / "half").mkdir(parents=True)
    assert tree(get(str(mine), raw).path) == PHOTOS
    assert {p.name for p in (raw / ".fetched").iterdir()} == {f"{name}.json", f"{name}.lock"}


def test_ready_data_are_read_from_a_read_only_volume(raw: Path) -> None:
    get("default", raw, default=DIGITS)
    os.chmod(raw, 0o500)  # noqa: PTH101
    try:
        (raw / ".fetched" / "demo.lock").unlink()
        assert get("default", raw, default=DIGITS).path.is_file()
        assert not (raw / ".fetched" / "demo.lock").exists()
    finally:
        os.chmod(raw, 0o700)  # noqa: PTH101
