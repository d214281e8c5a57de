"""The file of keys, and how a running server follows it."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loguru import logger

from proj.errors import ConfigError, ProjError, UsageError
from proj.serve import keys
from proj.serve.keys import Keys


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is looked at with every request."""
    monkeypatch.setattr(keys, "LOOK_EVERY_S", 0.0)


def test_a_key_is_random_and_the_file_has_its_hash_alone(file: Path) -> None:
    tokens = [keys.add(file, name) for name in ("ci", "bob", "eve")]
    assert len({*tokens}) == 3
    assert all(t.startswith("proj_") and len(t) >= 48 for t in tokens)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    text = file.read_text()
    assert not [t for t in tokens if t in text or t.removeprefix("proj_") in text]
    one = keys.read(file)[0]
    assert (one.name, one.sha256) == ("ci", hashlib.sha256(tokens[0].encode()).hexdigest())
    assert one.created.endswith("+00:00")
    assert sorted(p.name for p in file.parent.iterdir()) == [".keys.json.lock", "keys.json"]


@pytest.mark.parametrize("name", ["", "1a", "a b", "a:b", "a@b", "a/b", "x" * 65, "ä", "10.0.0.1", "a\n"])
def test_a_name_that_cannot_be(file: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be a key's name"):
        keys.add(file, name)
    assert not file.exists()


def test_a_name_stands_there_once(file: Path) -> None:
    keys.add(file, "ci")
    before = file.read_bytes()
    with pytest.raises(UsageError, match="revoke ci"):
        keys.add(file, "ci")
    assert file.read_bytes() == before


def test_a_revoked_key_is_gone(file: Path) -> None:
    keys.add(file, "a")
    keys.add(file, "b")
    assert keys.revoke(file, "a").name == "a"
    assert [k.name for k in keys.read(file)] == ["b"]
    with pytest.raises(UsageError, match="it has b"):
        keys.revoke(file, "a")
    keys.revoke(file, "b")
    assert keys.read(file) == []


def test_many_at_once_lose_none(file: Path) -> None:
    code = "import sys; from pathlib import Path; from proj.serve import keys; keys.add(Path(sys.argv[1]), sys.argv[2])"
    started = [subprocess.Popen([sys.executable, "-c", code, str(file), f"k{i}"]) for i in range(4)]
    assert [p.wait(timeout=60) for p in started] == [0] * 4
    assert sorted(k.name for k in keys.read(file)) == ["k0", "k1", "k2", "k3"]


def test_behind_a_link_the_target_is_written(file: Path) -> None:
    link = file.with_name("link.json")
    keys.add(file, "a")
    link.symlink_to(file)
    keys.add(link, "b")
    assert link.is_symlink()
    assert [k.name for k in keys.read(file)] == ["a", "b"]


GOOD = {"name": "a", "sha256": "0" * 64, "created": "2026-01-01T00:00:00+00:00"}


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", "{}", '{"keys": 1}', '{"keys": [1]}', '{"keys": [{}]}', b"\xff\xfe",
     {"keys": [GOOD, GOOD]}, {"keys": [{**GOOD, "sha256": "0" * 63}]}, {"keys": [{**GOOD, "sha256": "G" * 64}]},
     {"keys": [{**GOOD, "sha256": None}]}, {"keys": [{**GOOD, "name": "a b"}]}, {"keys": [{**GOOD, "name": 1}]},
     {"keys": [{**GOOD, "token": "proj_x"}]}, {"keys": [{**GOOD, "created": 5}]}, "[" * 100_000],
)  # fmt: skip
def test_a_broken_file_is_said(file: Path, content: Any) -> None:
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ConfigError, match="is not a file of keys") as said:
        keys.read(file)
    assert "0" * 20 not in str(said.value)  # no hash in a message


@settings(max_examples=50)
@given(content=st.binary(max_size=80))
def test_whatever_the_file_holds_is_an_error_with_a_message(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    file.write_bytes(content)
    with pytest.raises(ConfigError):
        keys.read(file)


def test_no_file_and_no_leave_to_read_it(file: Path) -> None:
    with pytest.raises(ConfigError, match="proj keys add NAME --file"):
        keys.read(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        keys.read(file.parent)  # a folder


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ProjError, match="cannot be written"):
        keys.add(tmp_path / "file" / "keys.json", "a")


# A running server


@pytest.mark.usefixtures("hurried")
def test_a_running_server_follows_the_file(file: Path) -> None:
    a = keys.add(file, "a").encode()
    known = Keys(file)
    assert known.name(a) == "a"
    b = keys.add(file, "b").encode()
    assert (known.name(a), known.name(b), known.name(b"proj_x"), known.name(b"")) == ("a", "b", "", "")
    keys.revoke(file, "a")
    assert (known.name(a), known.name(b)) == ("", "b")
    keys.revoke(file, "b")
    assert known.name(b) == ""


def test_the_file_is_looked_at_once_a_second(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = keys.add(file, "a").encode()
    known = Keys(file)
    assert known.name(a) == "a"
    keys.revoke(file, "a")
    now_s = keys.time.monotonic()
    monkeypatch.setattr(keys.time, "monotonic", lambda: now_s + 0.5)
    assert known.name(a) == "a"
    monkeypatch.setattr(keys.time, "monotonic", lambda: now_s + 1.1)
    assert known.name(a) == ""


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("broken", ["gone", "no JSON"])
def test_a_file_that_breaks_leaves_those_known_and_is_said_once(file: Path, broken: str) -> None:
    a = keys.add(file, "a").encode()
    known = Keys(file)
    assert known.name(a) == "a"
    said: list[str] = []
    sink = logger.add(lambda m: said.append(str(m)), format="{message}")
    try:
        if broken == "gone":
            file.unlink()
        else:
            file.write_text("{")
        assert [known.name(a) for _ in range(3)] == ["a"] * 3
        assert len(said) == 1
        assert "1 keys are known from before" in said[0]
        file.unlink(missing_ok=True)
        b = keys.add(file, "b").encode()  # mended
        assert (known.name(a), known.name(b)) == ("", "b")
    finally:
        logger.remove(sink)


@pytest.mark.usefixtures("hurried")
def test_a_file_that_is_swapped_in_is_seen_though_size_and_time_are_the_same(file: Path) -> None:
    a = keys.add(file, "a").encode()
    known = Keys(file)
    assert known.name(a) == "a"
    when = file.stat()
    other = file.with_name("other.json")
    b = keys.add(other, "b").encode()
    os.utime(other, ns=(when.st_atime_ns, when.st_mtime_ns))
    os.replace(other, file)
    assert (known.name(a), known.name(b)) == ("", "b")
