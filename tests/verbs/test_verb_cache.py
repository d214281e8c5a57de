"""`proj data cache`: what it lists, what it clears, and its JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import call, make_project

from proj.data import cache


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project's data/features with arrays of two tasks and a folder of ids."""
    folder = make_project(tmp_path / "p") / "data/features"
    for task, name, weights in (("digits", "aa", ""), ("trashnet", "bb", "/somewhere/else/net.safetensors")):
        told = {"model.backbone": "resnet18"} | ({"model.weights": weights} if weights else {})
        about = cache.About(what="features", prepared="ab12", settings=told, rows=1200)
        cache.once(folder, folder / task / f"{name}.npy", (1200, 4), about, limit_bytes=1e9, fill=lambda _: None)
    (folder / "ids-77").mkdir()
    (folder / "ids-77/flat.npy").write_bytes(b"12345")
    return folder


def listed(root: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    said = call(capsys, "--project", str(root.parents[1]), "data", "cache", *words)
    return said.code, said.out, said.err


def test_the_list_says_task_settings_rows_and_size(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = listed(root, capsys)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["task", "what", "rows", "size", "last", "used", "settings"]
    (line,) = [n for n in lines if n.startswith("trashnet")]
    assert line.endswith("model.backbone=resnet18 model.weights=net.safetensors")
    assert "1,200" in line
    assert "19.3 kB" in line
    assert any(n.startswith("?") and "token ids" in n for n in lines)
    assert lines[-1].startswith("3 arrays, 38.7 kB in ")


def test_json_is_one_document(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = json.loads(listed(root, capsys, "--json")[1])
    assert (said["folder"], said["cleared"], said["bytes"]) == (str(root), False, 38_661)
    one = next(e for e in said["entries"] if e["task"] == "trashnet")
    assert one["settings"]["model.weights"] == "/somewhere/else/net.safetensors"
    assert (one["what"], one["prepared"], one["rows"], one["bytes"]) == ("features", "ab12", 1200, 19_328)
    assert one["path"] == str(root / "trashnet/bb.npy")
    assert one["made"] <= one["used"]


def test_one_task_is_listed_or_cleared_alone(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [e["task"] for e in json.loads(listed(root, capsys, "digits", "--json")[1])["entries"]] == ["digits"]
    code, out, _ = listed(root, capsys, "--clear", "trashnet")
    assert code == 0
    assert out.splitlines()[-1] == "cleared 1 array, 19.3 kB"
    assert {e.task for e in cache.entries(root)} == {"digits", ""}


def test_all_is_cleared(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = json.loads(listed(root, capsys, "--clear", "--json")[1])
    assert said["cleared"] is True
    assert len(said["entries"]) == 3
    assert cache.entries(root) == []
    assert "nothing" in listed(root, capsys)[1]
    assert listed(root, capsys, "--clear")[:2] == (0, f"nothing to clear in {root}\n")


def test_a_project_without_a_cache_has_an_empty_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = make_project(tmp_path / "p") / "data/features"
    assert listed(nowhere, capsys)[0] == 0
    assert json.loads(listed(nowhere, capsys, "--json")[1])["entries"] == []
    assert not nowhere.exists()


def test_an_unknown_task_is_refused_and_nothing_cleared(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = listed(root, capsys, "--clear", "trashnt")
    assert (code, out) == (2, "")
    assert "'trashnt'" in err
    assert "did you mean trashnet?" in err
    assert len(cache.entries(root)) == 3


def test_what_a_killed_process_left_is_removed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = root / "digits/.cc.part.npy"
    part.write_bytes(b"half")
    _, _, err = listed(root, capsys)
    assert not part.exists()
    assert "removed what 1 killed process left" in err
