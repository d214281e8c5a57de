"""What a bundle must be before it is served, and what is told apart while one is looked for."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundles import make_bundle, make_series_bundle, make_text_bundle

from proj import bundle, runs
from proj.errors import ResourceError, RunNotFound
from proj.runs import Record
from proj.serve import cgroup, check, cores, memory, stage, watch
from proj.serve.check import Job, Refused
from proj.serve.settings import Settings
from proj.verbs.serve import source

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from swaps import HARMS

SETTINGS = Settings()


def examine(source: Path, staged: Path, *, name: str = "digits", serving: Path | None = None, workers: int = 1) -> None:
    job, room = Job(name, source, staged, serving), memory.Room(workers)
    check.read(job, SETTINGS, room)
    check.load(job, SETTINGS, room)


def test_a_refusal_is_named_by_what_is_wrong_and_not_by_the_folders_name(tmp_path: Path) -> None:
    source = make_bundle(tmp_path / "source")
    (source / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(Refused) as refused:
        examine(source, tmp_path / "example-answers")
    assert refused.value.slug == "hash"


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "good")


# check


def test_a_good_bundle_is_copied_and_passes(good: Path, tmp_path: Path) -> None:
    examine(good, tmp_path / "copy", serving=make_bundle(tmp_path / "before", names=tuple("abcdefghi"), seed=5))
    shutil.rmtree(good)  # nobody needs it any more
    assert bundle.verify(tmp_path / "copy").model == "digits@test"


@pytest.mark.parametrize(("harm", "slug"), HARMS.values(), ids=HARMS)
def test_a_corrupted_one_is_refused_for_what_is_wrong(
    good: Path, tmp_path: Path, harm: Callable[[Path], object], slug: str
) -> None:
    harm(good)
    with pytest.raises(Refused) as refused:
        examine(good, tmp_path / "copy")
    assert refused.value.slug == slug


@pytest.mark.parametrize("name", ["bundle.json", "model.onnx"])
def test_a_file_that_is_missing(good: Path, tmp_path: Path, name: str) -> None:
    (good / name).unlink()
    with pytest.raises(Refused) as refused:
        examine(good, tmp_path / "copy")
    assert refused.value.slug == "missing"


@pytest.mark.parametrize(
    ("served", "offered", "why"),
    [
        (make_bundle, lambda f: make_text_bundle(f, name="digits"), "modality text, served is image"),
        (make_bundle, lambda f: make_bundle(f, kind="values"), "kind values, served is classes"),
        (make_bundle, lambda f: make_bundle(f, page_input="photo"), "page_input photo"),
        (make_bundle, lambda f: make_bundle(f, views=2), "it takes 2 views, served is 1 views"),
        (
            lambda f: make_text_bundle(f, name="digits"),
            lambda f: make_text_bundle(f, name="digits", fields=("text",)),
            "it takes the fields text, served is the fields title, text",
        ),
        (
            lambda f: make_series_bundle(f, name="digits"),
            lambda f: make_series_bundle(f, name="digits", steps=9),
            "it takes 9 steps of Fx",
        ),
    ],
)
def test_one_that_the_clients_could_not_ask_as_before_is_refused(
    tmp_path: Path, served: Callable[[Path], Path], offered: Callable[[Path], Path], why: str
) -> None:
    with pytest.raises(Refused, match=why) as refused:
        examine(offered(tmp_path / "new"), tmp_path / "copy", serving=served(tmp_path / "old"))
    assert refused.value.slug == "schema"


def test_memory_must_be_there_once_for_each_worker(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "free_bytes", lambda: 10**8)
    examine(good, tmp_path / "one")
    with pytest.raises(Refused, match=r"100000 workers, 100\.0 MB are free") as refused:
        examine(good, tmp_path / "many", workers=100_000)
    assert refused.value.slug == "memory"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what a process took")
def test_what_loading_took_at_most_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "free_bytes", lambda: 300_000_000)

    def take() -> None:
        held = bytearray(b"x") * 200_000_000  # and is given back
        assert held

    room = memory.Room(1)
    room.measured(take, "it is large")
    with pytest.raises((ResourceError, MemoryError)):  # there is room for one only
        room.measured(take, "it is large")
    with pytest.raises(
        ResourceError, match=r"it is large; it takes (199|2\d\d)\.\d MB in each of 2 workers, 300\.0 MB"
    ):
        memory.Room(2).measured(take, "it is large")


@pytest.mark.skipif(sys.platform != "linux", reason="Linux keeps the limit")
def test_more_than_is_there_cannot_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "free_bytes", lambda: 300_000_000)
    with pytest.raises(MemoryError):
        memory.Room(1).measured(lambda: bytearray(2_000_000_000) and None, "it is large")
    assert bytearray(400_000_000)  # the limit held for that call alone


# stage


def test_the_servers_folder_is_its_own_and_goes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with stage.folder() as folder:
        assert folder.parent == tmp_path
        assert sys.platform == "win32" or folder.stat().st_mode & 0o077 == 0
    assert not folder.exists()


def test_where_no_temporary_folder_can_be_written_the_memory_disk_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    monkeypatch.setattr(stage, "MEMORY_DISK", tmp_path)
    with stage.folder() as folder:
        assert folder.parent == tmp_path
    monkeypatch.setattr(stage, "MEMORY_DISK", tmp_path / "none too")
    with pytest.raises(ResourceError, match="TMPDIR"), stage.folder():
        pass


# watch


def found(watcher: watch.Watcher, tries: int = 3) -> Path | None:
    for _ in range(tries):
        if (path := watcher.look()) is not None:
            return path
    return None


def replace(new: Path, place: Path) -> None:
    place.rename(place.with_name("gone"))
    new.rename(place)
    shutil.rmtree(place.with_name("gone"))


def test_a_folder_replaced_by_rename_is_found_once(good: Path, tmp_path: Path) -> None:
    watcher = watch.Watcher(source(str(good), tmp_path))
    assert found(watcher) is None
    replace(make_bundle(tmp_path / "new", version="v2"), good)
    assert watcher.look() is None  # it may still be written at
    assert watcher.settling
    assert watcher.look() == good
    assert found(watcher) is None
    watcher.took()
    assert found(watcher) is None


def test_what_is_written_at_is_waited_for(good: Path, tmp_path: Path) -> None:
    watcher = watch.Watcher(source(str(good), tmp_path))
    manifest = (good / "bundle.json").read_bytes()
    (good / "bundle.json").unlink()
    assert found(watcher) is None
    (good / "model.onnx").write_bytes(b"half of")
    assert found(watcher) is None
    (good / "bundle.json").write_bytes(manifest)
    for size in range(3):  # it grows from one look to the next
        assert watcher.look() is None
        assert watcher.settling
        (good / "model.onnx").write_bytes(bytes(size + 100))
    assert found(watcher) == good


def test_one_that_was_refused_is_not_tried_again_until_it_changes(good: Path, tmp_path: Path) -> None:
    watcher = watch.Watcher(source(str(good), tmp_path))
    replace(make_bundle(tmp_path / "bad"), good)
    assert found(watcher) == good
    assert found(watcher) is None
    (good / "bundle.json").touch()
    assert found(watcher) == good


def test_one_that_changed_while_it_was_read_is_tried_again(good: Path, tmp_path: Path) -> None:
    watcher = watch.Watcher(source(str(good), tmp_path))
    replace(make_bundle(tmp_path / "new"), good)
    assert found(watcher) == good
    watcher.again()
    assert found(watcher) == good


@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
def test_the_one_that_is_served_comes_back(tmp_path: Path) -> None:
    first, second = make_bundle(tmp_path / "1"), make_bundle(tmp_path / "2")
    link = tmp_path / "current"
    link.symlink_to(first)
    watcher = watch.Watcher(source(str(link), tmp_path))

    def point(at: Path) -> None:
        link.unlink()
        link.symlink_to(at)

    point(second)
    assert found(watcher) == link  # and let it be refused
    point(first)
    assert found(watcher) is None
    point(second)
    assert found(watcher) is None


def run(models: Path, name: str, day: int, **fields: Any) -> Path:
    folder = models / "digits" / name
    make_bundle(folder / "bundle", version=name)
    started = f"2026-01-{day:02}T00:00:00+00:00"
    runs.write(folder, Record(**{"task": "digits", "run": name, "status": "finished", "started": started, **fields}))
    return folder


@pytest.mark.parametrize("ref", ["digits", None])
def test_a_task_is_its_newest_run_that_is_finished_and_exported(tmp_path: Path, ref: str | None) -> None:
    first = run(tmp_path, "first", 1)
    watcher = watch.Watcher(source(ref, tmp_path))
    assert watcher.bundle == first / "bundle"
    assert found(watcher) is None
    for day, fields in enumerate(({"fast": True}, {"sample": True}, {"trial": True}, {"status": "failed"}), 2):
        run(tmp_path, f"r{day}", day, **fields)
    shutil.rmtree(run(tmp_path, "bare", 8) / "bundle")
    running = run(tmp_path, "later", 9, status="running")
    assert found(watcher) is None
    runs.write(running, Record(task="digits", run="later", status="finished", started="2026-01-09T00:00:00+00:00"))
    assert found(watcher) == running / "bundle"
    watcher.took()
    shutil.rmtree(running)  # the one before is no newer version
    assert found(watcher) is None
    assert source(ref, tmp_path).bundle == first / "bundle"


def test_to_look_at_runs_takes_no_lock(tmp_path: Path) -> None:
    run(tmp_path, "first", 1)
    watcher = watch.Watcher(source("digits", tmp_path))
    busy = run(tmp_path, "busy", 2, status="running")
    (busy / "lock").touch()
    before = time.time() - 100
    os.utime(busy / "lock", (before, before))
    assert found(watcher) is None
    assert (busy / "lock").stat().st_mtime == before


def test_a_run_that_is_being_removed_is_passed_over(tmp_path: Path) -> None:
    run(tmp_path, "first", 1)
    watcher = watch.Watcher(source("digits", tmp_path))
    (run(tmp_path, "second", 2) / "run.json").unlink()  # its bundle is still there
    third = run(tmp_path, "third", 3)
    assert found(watcher) == third / "bundle"


def test_a_named_run_stays_the_one_that_was_named(tmp_path: Path) -> None:
    first = run(tmp_path, "first", 1)
    watcher = watch.Watcher(source("first", tmp_path))
    run(tmp_path, "second", 2)
    assert found(watcher) is None
    replace(make_bundle(tmp_path / "again"), first / "bundle")
    assert found(watcher) == first / "bundle"


def test_what_is_not_there_is_an_error_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(RunNotFound):
        source("digits", tmp_path)


# cores, memory of a group


def system(root: Path, files: dict[str, str]) -> Path:
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)
    return root


V2 = "0::/a/b\n"
V1 = "5:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n0::/\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"proc/self/cgroup": V2}, None),
        ({"proc/self/cgroup": V2, "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": V2, "sys/fs/cgroup/a/b/cpu.max": "150000 100000\n"}, 1.5),
        (
            {
                "proc/self/cgroup": V2,
                "sys/fs/cgroup/a/b/cpu.max": "400000 100000\n",
                "sys/fs/cgroup/a/cpu.max": "200000 100000\n",
            },
            2.0,
        ),
        ({"proc/self/cgroup": V2, "sys/fs/cgroup/cpu.max": "50000 100000"}, 0.5),
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us": "300000",
                "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000",
            },
            3.0,
        ),
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            2.0,
        ),
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            None,
        ),
        ({"proc/self/cgroup": "0::/../..\n", "sys/fs/cgroup/cpu.max": "100000 100000"}, 1.0),
        ({"proc/self/cgroup": "nonsense", "sys/fs/cgroup/cpu.max": "100000 0"}, None),
    ],
)
def test_the_quota_of_a_group_and_of_those_above_it(
    tmp_path: Path, files: dict[str, str], expected: float | None
) -> None:
    assert cgroup.cores(system(tmp_path, files)) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:   1000 kB\n"}, 1_024_000),
        (
            {
                "proc/meminfo": "MemAvailable: 1000 kB\n",
                "proc/self/cgroup": V2,
                "sys/fs/cgroup/a/b/memory.max": "500000",
                "sys/fs/cgroup/a/b/memory.current": "300000",
                "sys/fs/cgroup/a/b/memory.stat": "anon 1\ninactive_file 50000\n",
                "sys/fs/cgroup/a/memory.max": "max",
                "sys/fs/cgroup/a/memory.current": "400000",
            },
            250_000,
        ),
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "700000",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "900000",
            },
            0,
        ),
    ],
)
def test_the_memory_that_a_group_leaves(tmp_path: Path, files: dict[str, str], expected: int | None) -> None:
    assert cgroup.free_bytes(system(tmp_path, files)) == expected


@pytest.mark.parametrize(
    ("there", "quota", "told", "expected"),
    [
        (1, None, {}, (1, 1)),
        (2, None, {}, (1, 2)),
        (8, None, {}, (1, 8)),
        (9, None, {}, (2, 4)),
        (64, None, {}, (8, 8)),
        (64, 1.5, {}, (1, 2)),
        (64, 0.1, {}, (1, 1)),
        (2, 16.0, {}, (1, 2)),
        (2, None, {"workers": 4}, (4, 1)),
        (8, None, {"workers": 2, "threads": 3}, (2, 3)),
    ],
)
def test_cores_are_shared_out(
    monkeypatch: pytest.MonkeyPatch,
    there: int,
    quota: float | None,
    told: dict[str, int],
    expected: tuple[int, int],
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(there)), raising=False)
    monkeypatch.setattr(cgroup, "cores", lambda: quota)
    assert cores.shares(Settings(**told)) == expected
