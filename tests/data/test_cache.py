"""`proj.data.cache`: bounded, the least recently used goes first, one writer, nothing half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loguru import logger

from proj.data import cache
from proj.data.cache import About
from proj.errors import ResourceError

ABOUT = About(what="features", prepared="ab12", settings={"model.backbone": "resnet18"}, rows=10)
SIZE = 40_128  # bytes of 10 x 1,000 numbers with their header


def keep(
    root: Path, name: str, *, task: str = "digits", rows: int = 10, limit: float = 1e9, fill: Any = None
) -> cache.Array:
    path = root / task / f"{name}.npy"
    return cache.once(root, path, (rows, 1000), ABOUT, limit_bytes=limit, fill=fill or _ones)


def _ones(x: cache.Array) -> None:
    x[:] = 1


def aged(root: Path, name: str, seconds: float) -> None:
    """Last used so long ago."""
    then = time.time() - seconds
    for path in (root / f"digits/{name}.json", root / f"digits/{name}.npy"):
        os.utime(path, (then, then))


def names(root: Path) -> list[str]:
    return [e.path.stem for e in cache.entries(root)]


def no_fill(_: cache.Array) -> None:
    pytest.fail("computed again")


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """As if another process had opened what was opened until now."""
    return lambda: monkeypatch.setattr(cache, "_held", set())


@pytest.fixture
def said() -> Iterator[list[str]]:
    """The log's lines."""
    lines: list[str] = []
    sink = logger.add(lines.append, format="{level} {message}")
    yield lines
    logger.remove(sink)


def test_an_array_is_computed_once_and_read_from_the_disk(tmp_path: Path) -> None:
    def count(x: cache.Array) -> None:
        x[:] = np.arange(len(x))[:, None]

    first = keep(tmp_path, "a", fill=count)
    second = keep(tmp_path, "a", fill=no_fill)
    assert isinstance(first, np.memmap)
    assert not first.flags.writeable
    assert first.dtype == np.float32
    assert first[:, 7].tolist() == second[:, 7].tolist() == list(range(10))
    assert sorted(p.name for p in (tmp_path / "digits").iterdir()) == [".a.lock", "a.json", "a.npy"]


def test_what_is_kept_says_what_it_is(tmp_path: Path) -> None:
    keep(tmp_path, "a", task="trashnet")
    (entry,) = cache.entries(tmp_path)
    told = json.loads((tmp_path / "trashnet/a.json").read_text())
    assert told["settings"] == entry.about.settings == {"model.backbone": "resnet18"}
    assert (entry.task, entry.about.rows, entry.about.prepared, entry.bytes) == ("trashnet", 10, "ab12", SIZE)
    assert entry.about.made.startswith("20")
    assert abs(entry.used - time.time()) < 60


def test_the_least_recently_used_goes_first(tmp_path: Path, forgotten: Callable[[], None], said: list[str]) -> None:
    for i, name in enumerate("abc"):
        keep(tmp_path, name)
        aged(tmp_path, name, 1000 - i)
    keep(tmp_path, "a", fill=no_fill)  # the oldest is used again
    forgotten()
    keep(tmp_path, "d", limit=3 * SIZE)
    assert names(tmp_path) == ["d", "a", "c"]
    assert not (tmp_path / "digits/b.json").exists()
    assert [line for line in said if "removed" in line] == [
        "INFO cache: removed what was used least recently, to make room within data.cache_gb=0.000120384: "
        "features of digits (40.1 kB)\n"
    ]


def test_what_this_process_uses_stays(tmp_path: Path, said: list[str]) -> None:
    a = keep(tmp_path, "a")
    aged(tmp_path, "a", 1000)
    keep(tmp_path, "b", limit=SIZE)
    assert names(tmp_path) == ["b", "a"]
    assert a[9, 999] == 1
    assert any(line.startswith("WARNING cache: 80.3 kB are in use") for line in said)


def test_reading_removes_nothing(tmp_path: Path, forgotten: Callable[[], None]) -> None:
    keep(tmp_path, "a")
    keep(tmp_path, "b")
    forgotten()
    keep(tmp_path, "b", limit=1, fill=no_fill)
    assert names(tmp_path) == ["b", "a"]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 30)), min_size=1, max_size=8))
def test_the_bound_holds_whatever_is_written(writes: list[tuple[str, int]]) -> None:
    limit = 4 * SIZE
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        root = Path(folder)
        for name, rows in writes:
            patch.setattr(cache, "_held", set())
            found = keep(root, f"{name}{rows}", rows=rows, limit=limit)
            assert found.shape == (rows, 1000)
            assert sum(e.bytes for e in cache.entries(root)) <= limit
            assert names(root)[0] == f"{name}{rows}"


@pytest.mark.parametrize("content", [b"", b"hello", b"half"], ids=["empty", "text", "half"])
def test_a_broken_array_is_computed_anew(tmp_path: Path, said: list[str], content: bytes) -> None:
    keep(tmp_path, "a")
    path = tmp_path / "digits/a.npy"
    path.write_bytes(path.read_bytes()[: SIZE // 2] if content == b"half" else content)
    assert keep(tmp_path, "a")[9, 999] == 1
    assert any("a.npy is broken" in line for line in said)


@pytest.mark.parametrize("told", ["", "{", "[]", "3", '{"what": 3}', '{"what": "x"}', "[" * 100_000])
def test_an_array_of_which_nothing_readable_is_told_is_listed_all_the_same(tmp_path: Path, told: str) -> None:
    keep(tmp_path, "a")
    (tmp_path / "digits/a.json").write_text(told)
    (entry,) = cache.entries(tmp_path)
    assert (entry.task, entry.about) == ("digits", About(what="features"))
    (tmp_path / "digits/a.json").unlink()
    assert cache.entries(tmp_path)[0].bytes == SIZE
    keep(tmp_path, "a", fill=no_fill)


def test_what_fails_while_it_is_written_leaves_nothing(tmp_path: Path) -> None:
    def fail(x: cache.Array) -> None:
        x[:5] = 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keep(tmp_path, "a", fill=fail)
    assert [p.name for p in (tmp_path / "digits").iterdir()] == [".a.lock"]


def test_a_file_that_cannot_grow_is_an_error_beforehand(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")  # not on Windows
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            keep(tmp_path, "a", fill=no_fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [p.name for p in (tmp_path / "digits").iterdir()] == [".a.lock"]


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system reserves no blocks")
def test_the_disk_is_taken_before_the_first_number_is_written(tmp_path: Path) -> None:
    taken = []
    keep(tmp_path, "a", fill=lambda _: taken.append((tmp_path / "digits/.a.part.npy").stat().st_blocks * 512))
    assert taken[0] >= SIZE


def test_what_no_disk_can_take_is_refused_beforehand(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"needs 40000\.0 TB.*are free.*model\.cache=false"):
        keep(tmp_path, "a", rows=10**13, limit=1e18, fill=no_fill)
    assert [p.name for p in (tmp_path / "digits").iterdir()] == [".a.lock"]


# --- token ids, leftovers, clearing


def _ids(root: Path, name: str = "ids-0123") -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    np.save(folder / "flat.npy", np.zeros(1000, np.int32))
    np.save(folder / "offset.npy", np.zeros(11, np.int64))
    return folder


def test_token_ids_are_listed_counted_and_removed_too(tmp_path: Path) -> None:
    folder = _ids(tmp_path)
    os.utime(folder, (0, 0))
    _ids(tmp_path / "fakenews", "ids-4567")
    found = {e.path.name: e for e in cache.entries(tmp_path)}
    assert {(n, e.task, e.about.what, e.bytes) for n, e in found.items()} == {
        ("ids-0123", "", "token ids", 4344),
        ("ids-4567", "fakenews", "token ids", 4344),
    }
    keep(tmp_path, "a", limit=SIZE + 4344)
    assert names(tmp_path) == ["a", "ids-4567"]


def test_token_ids_say_what_they_are(tmp_path: Path) -> None:
    folder = _ids(tmp_path / "fakenews")
    cache.tell(folder, About(what="token ids", rows=10))
    os.utime(folder, (0, 0))
    cache.used(folder)
    assert cache.tidy(tmp_path) == []
    (entry,) = cache.entries(tmp_path)
    assert (entry.about.rows, entry.about.what) == (10, "token ids")
    assert abs(entry.used - time.time()) < 60
    assert cache.clear(tmp_path, "fakenews") == [entry]
    assert list((tmp_path / "fakenews").iterdir()) == []


def test_token_ids_in_use_stay(tmp_path: Path) -> None:
    folder = _ids(tmp_path)
    cache.used(folder)
    keep(tmp_path, "a", limit=SIZE)
    assert folder.is_dir()


def test_all_is_cleared_or_what_is_of_one_task(tmp_path: Path) -> None:
    for task in ("digits", "trashnet"):
        keep(tmp_path, "a", task=task)
    assert [e.task for e in cache.clear(tmp_path, "trashnet")] == ["trashnet"]
    assert [e.task for e in cache.entries(tmp_path)] == ["digits"]
    assert len(cache.clear(tmp_path)) == 1
    assert cache.entries(tmp_path) == []
    assert cache.clear(tmp_path) == []
    assert cache.clear(tmp_path / "nowhere") == cache.tidy(tmp_path / "nowhere") == []


def test_leftovers_without_a_lock_go_when_they_are_old(tmp_path: Path) -> None:
    keep(tmp_path, "a")
    left = tmp_path / "digits/.77-b.npy"
    left.write_bytes(b"x")
    ids = _ids(tmp_path, ".ids-89.77")
    assert cache.tidy(tmp_path) == []
    for p in (left, ids):
        os.utime(p, (0, 0))
    assert sorted(cache.tidy(tmp_path)) == sorted([left, ids])
    assert not left.exists()
    assert not ids.exists()
    assert names(tmp_path) == ["a"]


def test_what_is_told_of_a_deleted_array_goes(tmp_path: Path) -> None:
    keep(tmp_path, "a")
    (tmp_path / "digits/a.npy").unlink()
    keep(tmp_path, "b")
    assert sorted(p.name for p in (tmp_path / "digits").glob("*.json")) == ["b.json"]


# --- other processes

OTHER = """
import sys, time
from pathlib import Path
from proj.data import cache
root, name, limit, pause, seen = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), float(sys.argv[4]), sys.argv[5]

def fill(x):
    x[:5] = 2
    with open(seen, "a") as f:
        f.write(name + "\\n")
    print("half", flush=True)
    time.sleep(pause)
    x[5:] = 2

about = cache.About(what="features", rows=10)
x = cache.once(root, root / "digits" / f"{name}.npy", (10, 1000), about, limit_bytes=limit, fill=fill)
assert x.min() == x.max() == 2
"""


def other(root: Path, name: str, *, limit: float = 1e9, pause_s: float = 0.0) -> subprocess.Popen[str]:
    """A process that writes an array, with a pause in the middle."""
    words = [str(root), name, str(limit), str(pause_s), str(root / "seen.txt")]
    root.mkdir(exist_ok=True)
    return subprocess.Popen([sys.executable, "-c", OTHER, *words], stdout=subprocess.PIPE, text=True)


def test_of_several_processes_one_computes(tmp_path: Path) -> None:
    started = [other(tmp_path, "a", pause_s=0.3) for _ in range(3)]
    assert [p.wait(30) for p in started] == [0, 0, 0]
    assert (tmp_path / "seen.txt").read_text() == "a\n"
    for p in started:
        p.communicate()


def test_processes_that_write_at_once_stay_within_the_bound(tmp_path: Path) -> None:
    started = [other(tmp_path, name, limit=2.5 * SIZE) for name in "abcd"]
    assert [p.wait(30) for p in started] == [0, 0, 0, 0]
    for p in started:
        p.communicate()
    assert (tmp_path / "seen.txt").read_text().count("\n") == 4
    assert len(names(tmp_path)) <= 2
    assert cache.tidy(tmp_path) == []


def test_a_killed_writer_leaves_a_part_that_is_removed_when_it_is_dead(tmp_path: Path) -> None:
    writer = other(tmp_path, "a", pause_s=60)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "half\n"
    part = tmp_path / "digits/.a.part.npy"
    assert cache.tidy(tmp_path) == []
    assert part.stat().st_size == SIZE
    writer.kill()
    writer.communicate()
    assert names(tmp_path) == []
    assert cache.tidy(tmp_path) == [part]
    assert not part.exists()


def test_after_a_killed_writer_the_next_one_computes(tmp_path: Path) -> None:
    writer = other(tmp_path, "a", pause_s=60)
    assert writer.stdout is not None
    writer.stdout.readline()
    writer.kill()
    writer.communicate()
    assert keep(tmp_path, "a", fill=_ones).min() == 1
    assert list((tmp_path / "digits").glob(".*.npy")) == []
