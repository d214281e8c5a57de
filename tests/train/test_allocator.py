"""The allocator: chosen once, by a new start that nobody else notices; it changes no weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from proj import __main__ as entry
from proj.train import allocator

ROOT = Path(__file__).parents[2]
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux starts anew")
START = "from proj.train import allocator; allocator.start(); import os, sys; "
SEEN = """
HIDDEN = 'LD_PRELOAD', 'GLIBC_TUNABLES', 'PROJ_ALLOCATOR_SET'
print(os.getpid(), [k for k in os.environ if k in HIDDEN or 'MALLOC' in k])
print(allocator.current())
"""
TRAIN = """
import hashlib, torch
torch.manual_seed(0)
torch.use_deterministic_algorithms(True)
net = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 3), torch.nn.BatchNorm2d(32), torch.nn.ReLU(), torch.nn.Flatten(),
                          torch.nn.Linear(32 * 62 * 62, 4)).to(memory_format=torch.channels_last)
optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, fused=True)
for _ in range(5):
    loss = net(torch.rand(16, 3, 64, 64)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in net.parameters())).hexdigest())
"""


def bare(**more: str) -> dict[str, str]:
    """The environment without what a test run, a shell or an image has set."""
    hidden = ("PYTEST_", "PROJ_ALLOCATOR", "LD_PRELOAD", "GLIBC_TUNABLES", "MALLOC_", "TCMALLOC_", "COV_", "COVERAGE_")
    return {k: v for k, v in os.environ.items() if not k.startswith(hidden)} | more


def python(code: str, **more: str) -> tuple[int, str]:
    """The process's id and what it printed."""
    process = subprocess.Popen([sys.executable, "-c", code], env=bare(**more), stdout=subprocess.PIPE, text=True)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return process.pid, out.strip()


def installed() -> list[str]:
    return [n for n in allocator.SETTINGS if n == "glibc" or allocator.library(n)]


@linux
@pytest.mark.parametrize("name", installed())
def test_a_new_start_is_the_same_process_and_has_what_was_asked_for(name: str) -> None:
    pid, said = python(START + SEEN, PROJ_ALLOCATOR=name)
    seen, current = said.splitlines()
    assert seen == f"{pid} []"  # what it starts is as any other
    assert current == f"{name}, tuned"


@linux
def test_what_was_preloaded_before_is_there_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "library", lambda _: "/lib/liballoc.so")
    monkeypatch.setenv("LD_PRELOAD", "/lib/theirs.so")
    monkeypatch.setenv("MALLOC_CONF", "theirs")
    changed = allocator.environment("jemalloc", os.environ)
    assert changed == {"LD_PRELOAD": "/lib/liballoc.so:/lib/theirs.so"}
    monkeypatch.setenv("LD_PRELOAD", changed["LD_PRELOAD"])
    monkeypatch.setenv(allocator.MARK, "LD_PRELOAD")
    assert allocator._second(os.environ)
    assert (os.environ["LD_PRELOAD"], os.environ["MALLOC_CONF"]) == ("/lib/theirs.so", "theirs")
    assert not allocator._second(os.environ)


@linux
@pytest.mark.parametrize(
    ("code", "more"),
    [
        ("", {"PROJ_ALLOCATOR": "off"}),
        ("", {"PYTEST_CURRENT_TEST": "a test"}),
        ("", {"MALLOC_CONF": "narenas:1"}),
        ("import pytest; ", {"PROJ_ALLOCATOR": "glibc"}),
        ("import sys; sys.settrace(lambda *_: None); ", {"PROJ_ALLOCATOR": "glibc"}),
        ("import sys; sys.setprofile(lambda *_: None); ", {"PROJ_ALLOCATOR": "glibc"}),
        ("import os; os.getpid = lambda: 1; ", {"PROJ_ALLOCATOR": "glibc"}),
    ],
    ids=["off", "a test's child", "an own choice", "pytest", "debugger", "profiler", "process 1"],
)
def test_it_stays_as_it_is(code: str, more: dict[str, str]) -> None:
    stop = "import os; os.execve = lambda *_: print('started anew'); "
    assert python(stop + code + START, **more)[1] == ""
    if code:
        assert python(stop + START, **more)[1] == "started anew"


@linux
def test_a_command_starts_anew_and_ends_as_it_would_have(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "proj", "train", "nosuch=1"]
    done = subprocess.run(command, env=bare(PROJ_ALLOCATOR="glibc"), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "nosuch" in done.stderr


@pytest.mark.parametrize(
    ("words", "does"),
    [
        ("train task=digits", True),
        ("--project there profile", True),
        ("evaluate --json", True),
        ("train --help", False),
        ("train --dry-run", False),
        ("--project train config", False),
        ("serve train", False),
        ("", False),
    ],
)
def test_only_what_computes_starts_anew(words: str, does: bool) -> None:
    assert entry.computes(words.split()) is does


def test_a_name_that_is_none_ends_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        allocator.chosen({"PROJ_ALLOCATOR": "fast"})
    assert ended.value.code == 2
    assert "off, glibc, jemalloc, tcmalloc" in capsys.readouterr().err


def test_what_is_not_installed_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "library", lambda _: "")
    assert allocator.chosen({"PROJ_ALLOCATOR": "jemalloc"}) == "glibc"
    assert "libjemalloc.so.2 was not found" in capsys.readouterr().err


def test_by_default_the_fastest_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    there = set(allocator.FASTEST_FIRST)
    monkeypatch.setattr(allocator, "library", lambda name: name * (name in there))
    assert allocator.chosen({}) == allocator.FASTEST_FIRST[0]
    there.clear()
    assert allocator.fastest({}) == {}


@linux
def test_a_start_that_fails_is_said_and_all_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: Any) -> None:
        raise PermissionError("no")

    monkeypatch.setattr(os, "execve", refused)
    monkeypatch.setattr(allocator, "_watched", lambda _: False)
    monkeypatch.setenv("PROJ_ALLOCATOR", "glibc")
    allocator.start()
    assert "warning: the allocator stays" in capsys.readouterr().err


def test_the_image_sets_what_a_new_start_would_set() -> None:
    text = (ROOT / "dockerfiles" / "train.dockerfile").read_text(encoding="utf-8")
    best = allocator.FASTEST_FIRST[0]
    assert f"install -y --no-install-recommends {allocator.PACKAGES[best]} " in text
    assert f"ENV LD_PRELOAD={allocator.LIBRARIES[best][0]} " in text
    for name, value in allocator.SETTINGS[best].items():
        assert f"    {name}={value}\n" in text


@linux
@pytest.mark.slow
def test_the_allocator_changes_no_bit_of_the_weights() -> None:
    hashes = {n: python(START + f"exec({TRAIN!r})", PROJ_ALLOCATOR=n)[1] for n in ("off", *installed())}
    assert len(set(hashes.values())) == 1, hashes
