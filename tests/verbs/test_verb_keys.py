"""`proj keys`: what it prints where, and what stays out of sight."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from commands import call

from proj.serve import keys

TOKEN = r"proj_[A-Za-z0-9_-]{43}"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_key_alone_is_on_stdout(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    said = call(capsys, "keys", "add", "ci")
    assert said.code == 0
    assert re.fullmatch(TOKEN + "\n", said.out)
    assert "only time" in said.err
    assert "keys=keys.json" in said.err
    assert not re.search(TOKEN, said.err)
    assert [k.name for k in keys.read(here / "keys.json")] == ["ci"]


def test_a_file_of_another_name_and_json(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    made = json.loads(call(capsys, "keys", "add", "ci", "--file", "other.json", "--json").out)
    assert (made["file"], made["name"]) == ("other.json", "ci")
    assert re.fullmatch(TOKEN, made["key"])
    listed = call(capsys, "keys", "list", "--file", "other.json", "--json").out
    assert [k["name"] for k in json.loads(listed)["keys"]] == ["ci"]
    assert keys.read(here / "other.json")[0].sha256 not in listed
    gone = json.loads(call(capsys, "keys", "revoke", "ci", "--file", "other.json", "--json").out)
    assert (gone["name"], gone["revoked"]) == ("ci", True)


def test_the_list_has_names_and_times(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("ci", "bob"):
        call(capsys, "keys", "add", name)
    for words in (["keys"], ["keys", "list"]):
        said = call(capsys, *words)
        assert said.code == 0
        assert [line.split()[0] for line in said.out.splitlines()] == ["name", "----", "ci", "bob"]
    call(capsys, "keys", "revoke", "ci")
    call(capsys, "keys", "revoke", "bob")
    assert call(capsys, "keys").out == "no keys in keys.json\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["add"], "whose key"),
        (["revoke"], "whose key"),
        (["ad", "x"], "'add', 'list', 'revoke'"),
        (["list", "x"], "takes no name"),
        (["add", "a b"], "cannot be a key's name"),
        (["revoke", "nobody"], "no file of keys"),
        (["list"], "no file of keys"),
    ],
    ids=" ".join,
)
def test_a_wrong_word_is_told(capsys: pytest.CaptureFixture[str], words: list[str], says: str) -> None:
    said = call(capsys, "keys", *words)
    assert (said.code, said.out) == (2, "")
    assert says in said.err
    assert not list(Path().glob("*.json"))


def test_a_broken_file_is_not_overwritten(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    (here / "keys.json").write_text("{}")
    said = call(capsys, "keys", "add", "ci")
    assert said.code == 2
    assert "is not a file of keys" in said.err
    assert (here / "keys.json").read_text() == "{}"
