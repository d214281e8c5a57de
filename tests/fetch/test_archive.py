"""`proj.fetch.archive`: what is unpacked, what is refused, and that a refusal leaves nothing behind."""

from __future__ import annotations

import errno
import io
import os
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from proj import errors
from proj.errors import DataError, ResourceError
from proj.fetch import archive
from proj.fetch.archive import Limits, is_archive, unpack

FILES = {"paper/a.txt": b"one", "paper/deep/b.txt": b"two " * 1000, "glass/c.txt": b""}


def zipped(path: Path, files: dict[str, bytes], **options: int) -> Path:
    with zipfile.ZipFile(path, "w", **options) as z:  # type: ignore[arg-type]
        for name, content in files.items():
            z.writestr(name, content)
    return path


def tarred(path: Path, files: dict[str, bytes], *extra: tarfile.TarInfo, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as t:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            t.addfile(info, io.BytesIO(content))
        for info in extra:
            t.addfile(info)
    return path


def entry(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("suffix", archive.SUFFIXES)
def test_every_kind(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"data{suffix}"
    modes = {".tar": "w", "gz": "w:gz", "xz": "w:xz", "bz2": "w:bz2"}
    if suffix == ".zip":
        zipped(path, FILES, compression=zipfile.ZIP_DEFLATED)
    else:
        tarred(path, FILES, mode=next(m for end, m in modes.items() if suffix.endswith(end)))
    assert is_archive(path.name.upper())
    assert unpack(path, tmp_path / "out") == 3
    assert tree(tmp_path / "out") == FILES


def test_a_single_folder_at_the_top_is_left_out(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {f"dataset-resized/{n}": c for n, c in FILES.items()})
    unpack(path, tmp_path / "out")
    assert tree(tmp_path / "out") == FILES


def test_rubbish_of_other_systems_is_skipped(tmp_path: Path) -> None:
    rubbish = {
        "__MACOSX/paper/._a.txt": b"x",
        "paper/.DS_Store": b"x",
        "paper/._a.txt": b"x",
        "Thumbs.db": b"x",
    }
    unpack(zipped(tmp_path / "a.zip", {**FILES, **rubbish}), tmp_path / "out")
    assert tree(tmp_path / "out") == FILES


def test_windows_separators(tmp_path: Path) -> None:
    content = zipped(tmp_path / "a.zip", {"paper!a.txt": b"one", "glass!c.txt": b""}).read_bytes()
    content = content.replace(b"paper!", b"paper\\").replace(b"glass!", b"glass\\")
    (tmp_path / "a.zip").write_bytes(content)
    unpack(tmp_path / "a.zip", tmp_path / "out")
    assert tree(tmp_path / "out") == {"paper/a.txt": b"one", "glass/c.txt": b""}


def test_links_inside_become_copies(tmp_path: Path) -> None:
    links = [
        entry("first", tarfile.SYMTYPE, "second"),
        entry("second", tarfile.SYMTYPE, "paper/../paper/a.txt"),
        entry("glass/hard", tarfile.LNKTYPE, "paper/a.txt"),
        entry("glass/soft", tarfile.SYMTYPE, "../paper/a.txt"),
    ]
    unpack(tarred(tmp_path / "a.tar", FILES, *links), tmp_path / "out")
    found = tree(tmp_path / "out")
    assert [found[n] for n in ("first", "second", "glass/hard", "glass/soft")] == [b"one"] * 4
    assert not any(p.is_symlink() for p in (tmp_path / "out").rglob("*"))


def test_a_tar_that_ends_in_a_zip_is_a_tar(tmp_path: Path) -> None:
    inner = zipped(tmp_path / "inner.zip", {"x": b"y"}).read_bytes()
    unpack(tarred(tmp_path / "a.tar", {"one.txt": b"1", "inner.zip": inner}), tmp_path / "out")
    assert set(tree(tmp_path / "out")) == {"one.txt", "inner.zip"}


def encrypted(path: Path) -> Path:
    raw = bytearray(zipped(path, {"a.txt": b"secret"}).read_bytes())
    for sign, at in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        raw[raw.index(sign) + at] |= 1
    path.write_bytes(raw)
    return path


def linked_zip(path: Path) -> Path:
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as z:
        z.writestr(info, "/etc/passwd")
    return path


def edited(path: Path, edit: Callable[[bytearray], bytes | bytearray]) -> Path:
    path.write_bytes(edit(bytearray(path.read_bytes())))
    return path


def flipped(raw: bytearray) -> bytearray:
    raw[len(raw) // 2] ^= 0xFF
    return raw


def odd_method(raw: bytearray) -> bytearray:
    for sign, at in ((b"PK\1\2", 10), (b"PK\3\4", 8)):
        struct.pack_into("<H", raw, raw.index(sign) + at, 77)
    return raw


def lying_size(raw: bytearray) -> bytearray:
    for sign, at in ((b"PK\1\2", 24), (b"PK\3\4", 22)):
        struct.pack_into("<I", raw, raw.index(sign) + at, 5_000_000)
    return raw


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


BIG = {"x": os.urandom(50_000)}
ZEROS = {f"{i}": bytes(3_000_000) for i in range(4)}
SMALL = Limits(files=3, bytes=10_000_000, ratio=50, small=1_000_000)
Make = Callable[[Path], Path]


def a_zip(files: dict[str, bytes], **options: int) -> Make:
    return lambda p: zipped(p / "a.zip", files, **options)


def a_tar(files: dict[str, bytes], *extra: tarfile.TarInfo, name: str = "a.tar", mode: str = "w") -> Make:
    return lambda p: tarred(p / name, files, *extra, mode=mode)


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> Make:
    return a_tar(FILES, entry(name, kind, target))


def spoilt(make: Make, edit: Callable[[bytearray], bytes | bytearray]) -> Make:
    return lambda p: edited(make(p), edit)


def raw(name: str, content: bytes) -> Make:
    return lambda p: written(p / name, content)


GZ, BZ2 = a_tar(BIG, name="a.tgz", mode="w:gz"), a_tar(BIG, name="a.tar.bz2", mode="w:bz2")
XZ = a_tar(BIG, name="a.tar.xz", mode="w:xz")
# name: (how it is made, what the message says)
BAD: dict[str, tuple[Make, str]] = {
    "zip: parent folder": (a_zip({"../evil": b"x"}), "leads out"),
    "zip: parent folder further in": (a_zip({"a/b/../../../evil": b"x"}), "leads out"),
    "zip: absolute": (a_zip({"/tmp/evil": b"x"}), "leads out"),
    "zip: drive letter": (a_zip({"C:/evil": b"x"}), "leads out"),
    "zip: backslashes": (a_zip({"..\\evil": b"x"}), "leads out"),
    "zip: link": (lambda p: linked_zip(p / "a.zip"), "link or a device"),
    "zip: encrypted": (lambda p: encrypted(p / "a.zip"), "encrypted"),
    "zip: cut off": (spoilt(a_zip(BIG), lambda r: r[:-40]), "broken or cut off"),
    "zip: flipped byte": (spoilt(a_zip(BIG), flipped), "broken or cut off"),
    "zip: unknown method": (spoilt(a_zip(BIG), odd_method), "kind that is not read"),
    "zip: says a wrong size": (spoilt(a_zip(BIG), lying_size), "cut off"),
    "zip: empty": (a_zip({}), "no files"),
    "zip: only rubbish": (a_zip({"__MACOSX/x": b""}), "no files"),
    "zip: file and folder of one name": (a_zip({"a": b"", "a/b": b""}), "names"),
    "zip: a name too long": (a_zip({"x" * 300: b""}), "names"),
    "zip: a web page": (raw("a.zip", b"<!DOCTYPE html>\n<html>"), "web page"),
    "zip: no bytes": (raw("a.zip", b""), "empty"),
    "zip: JSON": (raw("a.zip", b'{"error": "sign in"}'), "sign in"),
    "tar: parent folder": (a_tar({"../evil": b"x"}), "leads out"),
    "tar: absolute": (a_tar({"/tmp/evil": b"x"}), "leads out"),
    "tar: link out": (link("l", "../../x"), "leads out"),
    "tar: absolute link": (link("l", "/etc"), "leads out"),
    "tar: hard link out": (link("l", "../x", tarfile.LNKTYPE), "leads out"),
    "tar: link to nothing": (link("l", "no"), "no file"),
    "tar: link to itself": (link("l", "l"), "no file"),
    "tar: through a link": (
        a_tar({"d/x": b""}, entry("l", tarfile.SYMTYPE, "d"), entry("l/y", tarfile.REGTYPE)),
        "no file",
    ),
    "tar: device": (a_tar(FILES, entry("dev", tarfile.CHRTYPE)), "device"),
    "tar: pipe": (a_tar(FILES, entry("pipe", tarfile.FIFOTYPE)), "device"),
    "tar: cut in a file": (spoilt(a_tar(BIG), lambda r: r[:20_000]), "cut off"),
    "tar: cut between files": (spoilt(a_tar(FILES), lambda r: r[:1024]), "cut off"),
    "tar: broken second header": (
        spoilt(a_tar(FILES), lambda r: r[:1024] + b"\xff" * 512 + r[1536:]),
        "broken",
    ),
    "tar: text": (raw("a.tar", b"hello, world\n" * 99), "not an archive"),
    "tar: no bytes": (raw("a.tar", b""), "empty"),
    "tar: empty": (a_tar({}), "no files"),
    "tar.gz: cut off": (spoilt(GZ, lambda r: r[:-900]), "cut off"),
    "tar.gz: flipped byte": (spoilt(GZ, flipped), "broken"),
    "tar.xz: flipped byte": (spoilt(XZ, flipped), "broken"),
    "tar.bz2: cut off": (spoilt(BZ2, lambda r: r[:-900]), "cut off"),
}
BOMBS: dict[str, Make] = {
    "zip: too many entries": a_zip({str(i): b"" for i in range(9)}),
    "zip: too large": a_zip(ZEROS),
    "zip: ratio": a_zip({"x": bytes(9_000_000)}, compression=zipfile.ZIP_DEFLATED),
    "tar: too large": a_tar(ZEROS),
    "tar.gz: ratio": a_tar({"x": bytes(9_000_000)}, name="a.tar.gz", mode="w:gz"),
    "tar: links to one file": a_tar({"x": bytes(4_000_000)}, *(entry(f"{i}", tarfile.SYMTYPE, "x") for i in range(2))),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_archives_leave_nothing(case: str, tmp_path: Path) -> None:
    refused(*BAD[case], None, tmp_path)


@pytest.mark.parametrize("case", BOMBS)
def test_bombs_leave_nothing(case: str, tmp_path: Path) -> None:
    refused(BOMBS[case], "bomb", SMALL, tmp_path)


def refused(make: Make, says: str, limits: Limits | None, folder: Path) -> None:
    box = folder / "deep" / "er"
    box.mkdir(parents=True)
    path = make(box)
    before = sorted(folder.rglob("*"))
    with pytest.raises(DataError, match=says) as caught:
        unpack(path, box / "out", limits=limits)
    assert path.name in caught.value.what
    assert sorted(folder.rglob("*")) == before


def test_a_full_disk_is_seen_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=errors.SPARE_BYTES + 10_000))
    for path in (zipped(tmp_path / "a.zip", BIG), tarred(tmp_path / "a.tar", BIG)):
        with pytest.raises(ResourceError, match="are free"):
            unpack(path, tmp_path / "out")
    assert {p.name for p in tmp_path.iterdir()} == {"a.zip", "a.tar"}


def test_a_disk_that_fills_up_on_the_way(tmp_path: Path) -> None:
    error = errors.disk_error(OSError(errno.ENOSPC, "No space left on device", "x"), "it cannot be saved")
    assert "No space left" in error.found
    path = zipped(tmp_path / "a.zip", FILES)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises((DataError, ResourceError)):
        unpack(path, tmp_path / "file" / "out")


def test_killed_on_the_way_there_is_no_target(tmp_path: Path) -> None:
    tarred(tmp_path / "a.tar.gz", {f"{i}": os.urandom(100_000) for i in range(200)}, mode="w:gz")
    code = "import sys; from proj.fetch.archive import *; unpack(*map(Path, sys.argv[1:]))"
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path / "a.tar.gz", tmp_path / "out"])
    deadline = time.monotonic() + 20
    while not any(tmp_path.glob("out.unpack-*/*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not (tmp_path / "out").exists()
    assert unpack(tmp_path / "a.tar.gz", tmp_path / "out") == 200
