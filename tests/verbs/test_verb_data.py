"""`proj data` and `proj data check`: what they print and the code they end with."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from made_projects import digits, photos, prepared, trashnet

from proj.verbs import data


def test_it_prepares_and_says_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = digits(tmp_path)
    data.prepared(job, fast=False, as_json=False, start=time.monotonic())
    said = capsys.readouterr().out
    assert "1,797 of shape (8, 8, 1)" in said
    assert "next      proj train task=digits" in said
    (folder,) = (tmp_path / "data/prepared/digits").glob("[0-9a-f]*")
    assert folder.name in said


def test_json_is_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = digits(tmp_path, "data.source=sample")
    data.prepared(job, fast=False, as_json=True, start=0)
    said = json.loads(capsys.readouterr().out)
    p = prepared(job)
    assert said == {
        "task": "digits", "prepared": str(p.folder), "rows": 120, "source": "sample", "counts": p.meta.counts,
        "skipped": [], "data_hash": p.meta.data_hash,
    }  # fmt: skip


def test_files_left_out_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = photos(tmp_path / "photos")
    (source / "glass/glass0.jpg").write_bytes(b"")
    job = trashnet(tmp_path / "p", f"data.source='{source}'", "data.max_broken_share=0.1")
    data.prepared(job, fast=False, as_json=False, start=0)
    assert "71 of shape (16, 16, 3), 1 unreadable left out" in capsys.readouterr().out


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("as_json", [False, True])
def test_check_ends_with_one_when_a_file_is_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], broken: bool, as_json: bool
) -> None:
    source = photos(tmp_path / "photos")
    if broken:
        (source / "glass/glass0.jpg").write_bytes(b"no picture")
    assert data.checked(source, as_json=as_json) == int(broken)
    said = capsys.readouterr().out
    assert ("glass/glass0.jpg" in said) is broken
    if as_json:
        json.loads(said)
