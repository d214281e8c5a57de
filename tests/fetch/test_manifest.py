"""`proj.fetch.manifest`: names, sizes and digests of a folder, and the cache that saves reading it again."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from proj.errors import DataError
from proj.fetch.manifest import Entry, manifest, manifest_digest

OLD_NS = 1_600_000_000 * 10**9


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for name, content in {
        "b/2.jpg": b"two",
        "a.csv": b"one",
        "b/1.jpg": b"",
        ".hidden": b"x",
        ".git/x": b"x",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
        os.utime(root / name, ns=(OLD_NS, OLD_NS))
    return root


def entry(name: str, content: bytes) -> Entry:
    return Entry(name, len(content), hashlib.sha256(content).hexdigest())


WHOLE = [entry("a.csv", b"one"), entry("b/1.jpg", b""), entry("b/2.jpg", b"two")]


def test_a_folder_sorted_without_hidden_files(folder: Path) -> None:
    assert manifest(folder) == WHOLE


def test_a_single_file(folder: Path) -> None:
    assert manifest(folder / "a.csv") == [entry("a.csv", b"one")]


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_are_followed_and_circles_end(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "3.jpg").write_bytes(b"three")
    (folder / "c").symlink_to(tmp_path / "elsewhere")
    (folder / "b" / "up").symlink_to(folder)
    assert manifest(folder) == [*WHOLE, entry("c/3.jpg", b"three")]


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_what_cannot_be_read(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        manifest(tmp_path / "none")
    (folder / "broken").symlink_to(tmp_path / "none")
    with pytest.raises(DataError, match="broken cannot be read"):
        manifest(folder)


def test_the_digest_is_of_names_and_contents(folder: Path) -> None:
    whole = manifest_digest(manifest(folder))
    assert whole == manifest_digest(WHOLE[::-1])
    for name, content in (("a.csv", b"eno"), ("b/3.jpg", b"")):
        (folder / name).write_bytes(content)
        changed = manifest_digest(manifest(folder))
        assert changed != whole
        whole = changed
    (folder / "b" / "3.jpg").rename(folder / "b" / "4.jpg")
    assert manifest_digest(manifest(folder)) != whole


def changed_behind_its_back(path: Path, content: bytes) -> None:
    s = path.stat()
    assert s.st_size == len(content)
    path.write_bytes(content)
    os.utime(path, ns=(s.st_mtime_ns, s.st_mtime_ns))


def test_the_cache_saves_reading_again(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "notes" / "digests.json"
    assert manifest(folder, cache=cache) == WHOLE
    changed_behind_its_back(folder / "a.csv", b"eno")
    assert manifest(folder, cache=cache) == WHOLE  # nothing was read
    assert manifest(folder)[0] == entry("a.csv", b"eno")


def test_the_cache_sees_a_change(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "digests.json"
    manifest(folder, cache=cache)
    (folder / "a.csv").write_bytes(b"eno")
    (folder / "b" / "2.jpg").write_bytes(b"longer")
    (folder / "b" / "1.jpg").unlink()
    want = [entry("a.csv", b"eno"), entry("b/2.jpg", b"longer")]
    assert manifest(folder, cache=cache) == manifest(folder, cache=cache) == want


def test_a_file_that_was_just_written_is_not_trusted(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "digests.json"
    (folder / "new").write_bytes(b"abc")
    manifest(folder, cache=cache)
    changed_behind_its_back(folder / "new", b"xyz")
    assert entry("new", b"xyz") in manifest(folder, cache=cache)


def test_the_cache_of_another_folder_is_none(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "digests.json"
    manifest(folder, cache=cache)
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "a.csv").write_bytes(b"eno")
    os.utime(copy / "a.csv", ns=(OLD_NS, OLD_NS))
    assert manifest(copy, cache=cache) == [entry("a.csv", b"eno")]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"folder": 1}', b"\xff\xfe"])
def test_a_broken_cache_is_none(content: bytes, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "digests.json").write_bytes(content)
    assert manifest(folder, cache=tmp_path / "digests.json") == WHOLE


def test_a_cache_that_cannot_be_written_is_only_slower(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert manifest(folder, cache=tmp_path / "file" / "digests.json") == WHOLE
