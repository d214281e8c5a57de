"""What a person sees: progress and logs on stderr, plain words for times and sizes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from proj import console


@pytest.mark.parametrize(
    ("s", "says"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (12, "12 s"), (59.4, "59 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")],
)
def test_seconds(s: float, says: str) -> None:
    assert console.seconds(s) == says


@pytest.mark.parametrize(
    ("n", "says"),
    [(0, "0 B"), (812, "812 B"), (1000, "1.0 kB"), (3_400_000, "3.4 MB"), (2.5e9, "2.5 GB"), (7e12, "7.0 TB")],
)
def test_size(n: float, says: str) -> None:
    assert console.size(n) == says


def test_folder_bytes_counts_files_at_any_depth(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(bytes(10))
    (tmp_path / "y").write_bytes(bytes(5))
    assert console.folder_bytes(tmp_path) == 15


def test_a_table_is_aligned() -> None:
    assert console.table(["name", "n"], [["a", "1"], ["long one", "100"]]) == [
        "name        n",
        "--------  ---",
        "a           1",
        "long one  100",
    ]


def test_json_out_is_one_document_and_refuses_nan(capsys: pytest.CaptureFixture[str]) -> None:
    console.json_out({"a": [1]})
    assert json.loads(capsys.readouterr().out) == {"a": [1]}
    with pytest.raises(ValueError, match="JSON"):
        console.json_out({"a": float("nan")})
    assert capsys.readouterr().out == ""


def test_relative_is_as_short_as_it_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert console.relative(tmp_path / "a" / "b") == Path("a/b")
    assert console.relative(tmp_path.parent) == tmp_path.parent


def test_progress_without_a_terminal_is_lines_on_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "PLAIN_EVERY_S", 0.0)
    console.log_to_stderr()
    with console.progress(200, "decode", "photos") as bar:
        bar.update(100, note="so far")
        bar.update(100)
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert said.out == ""
    assert len(lines) == 2
    assert "decode: 100/200 photos (" in lines[0]
    assert "left" in lines[0]
    assert lines[0].endswith("so far")
    assert "\x1b" not in said.err


def test_progress_is_silent_for_short_work(capsys: pytest.CaptureFixture[str]) -> None:
    console.log_to_stderr()
    with console.progress(0, "read", "B") as bar:
        for _ in range(1000):
            bar.update(10)
    assert capsys.readouterr() == ("", "")


def test_the_log_goes_to_a_file_as_long_as_it_is_open(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from loguru import logger

    console.log_to_stderr()
    with console.log_to_file(tmp_path / "train.log"):
        logger.info("inside é")
        logger.debug("detail")
    logger.info("after")
    text = (tmp_path / "train.log").read_text(encoding="utf-8")
    assert "inside é" in text
    assert "detail" in text
    assert "after" not in text
    assert "detail" not in capsys.readouterr().err


ON_A_TERMINAL = """
import pty, sys
code = '''
import time
from loguru import logger
from proj import console
console.log_to_stderr()
with console.progress(3, "decode", "photos") as bar:
    for _ in range(3):
        bar.update(); time.sleep(0.15)
    logger.info("a line")
'''
pty.spawn(["sh", "-c", 'stty cols 80 rows 24; exec "$0" -c "$1"', sys.executable, code])
"""


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo terminal")
@pytest.mark.parametrize(
    ("environ", "bar", "colour"),
    [({}, True, True), ({"NO_COLOR": "1"}, True, False), ({"TERM": "dumb"}, False, True)],
    ids=str,
)
def test_on_a_terminal(environ: dict[str, str], bar: bool, colour: bool) -> None:
    known = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "TERM"}}
    done = subprocess.run(
        [sys.executable, "-c", ON_A_TERMINAL], env={**known, "TERM": "xterm", **environ},
        capture_output=True, stdin=subprocess.DEVNULL, timeout=60, check=False,
    )  # fmt: skip
    seen = done.stdout.decode()
    assert "a line" in seen, done.stderr
    assert ("\r" in seen.replace("\r\n", "") and "3/3" in seen) == bar
    assert ("\x1b[32m" in seen) == colour
