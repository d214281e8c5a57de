"""Every form that RUN can take, and which run is meant when none is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from bundles import make_bundle
from commands import call, make_project
from loopback import File, free_port, serving

from proj import infer, runs
from proj.errors import RunNotFound, Unreachable
from proj.resolve import resolve
from proj.runs import Record, newest


def made(
    models: Path, name: str, day: int = 1, task: str = "digits", *, bundle: bool = False, **fields: object
) -> Path:
    folder = models / task / name
    folder.mkdir(parents=True)
    started = f"2026-01-{day:02}T00:00:00+00:00"
    known = {"task": task, "run": name, "status": "finished", "started": started, **fields}
    runs.write(folder, Record(**known))  # type: ignore[arg-type]
    if bundle:
        make_bundle(folder / "bundle", name=task, version=name)
    return folder


def test_nothing_is_the_newest_finished_run(tmp_path: Path) -> None:
    made(tmp_path, "old", 1)
    newest = made(tmp_path, "new", 2, "trashnet")
    for day, fields in enumerate(
        ({"fast": True}, {"sample": True}, {"trial": True}, {"folds": 5}, {"status": "failed"}, {"status": "running"}),
        3,
    ):
        made(tmp_path, f"r{day}", day, **fields)
    found = resolve(None, tmp_path)
    assert (found.run, found.bundle, found.chosen) == (newest, newest / "bundle", True)


def test_nothing_where_no_run_may_be_picked_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(RunNotFound, match="`proj train` makes one"):
        resolve(None, tmp_path)
    made(tmp_path, "quick", fast=True)
    with pytest.raises(RunNotFound, match="1 others"):
        resolve(None, tmp_path)


def test_a_run_directory_in_any_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made(tmp_path / "models", "mine", fast=True)
    monkeypatch.chdir(tmp_path)
    for ref in (str(folder), f"{folder}/", "models/digits/mine", "./models/digits/mine"):
        found = resolve(ref, tmp_path / "elsewhere")
        assert found.run is not None
        assert found.run.resolve() == folder
        assert not found.chosen


def test_a_run_by_its_name_also_one_that_is_never_picked(tmp_path: Path) -> None:
    made(tmp_path, "new", 9)
    folder = made(tmp_path, "quick", 1, fast=True)
    assert resolve("quick", tmp_path).run == folder


def test_a_task_is_its_newest_run_that_may_be_picked(tmp_path: Path) -> None:
    good = made(tmp_path, "good", 1)
    made(tmp_path, "quick", 2, fast=True)
    made(tmp_path, "other", 3, "trashnet")
    found = resolve("digits", tmp_path)
    assert (found.run, found.chosen) == (good, True)


def test_a_task_with_quick_runs_only_is_its_newest_finished_one(tmp_path: Path) -> None:
    quick = made(tmp_path, "quick", 1, fast=True)
    made(tmp_path, "broken", 2, status="failed")
    assert resolve("digits", tmp_path).run == quick


def test_the_newest_with_a_bundle_is_of_those_that_a_task_means(tmp_path: Path) -> None:
    assert newest(tmp_path, "digits") is None
    quick = made(tmp_path, "quick", 1, fast=True, bundle=True)
    assert newest(tmp_path, "digits") == (quick, runs.read(quick))  # as where nothing else is there
    good = made(tmp_path, "good", 2, bundle=True)
    made(tmp_path, "quicker", 3, fast=True, bundle=True)
    made(tmp_path, "failed", 4, status="failed", bundle=True)
    made(tmp_path, "bare", 5)
    made(tmp_path, "running", 6, status="running", bundle=True)
    made(tmp_path, "other", 7, "trashnet", bundle=True)
    (made(tmp_path, "broken", 8, bundle=True) / "run.json").write_text('{"status": "finished"')
    assert newest(tmp_path, "digits") == (good, runs.read(good))


def test_a_bundle_and_the_run_that_it_lies_in(tmp_path: Path) -> None:
    folder = made(tmp_path / "models", "mine", bundle=True)
    found = resolve(str(folder / "bundle"), tmp_path)
    assert (found.bundle, found.run) == (folder / "bundle", folder)
    assert found.directory() == folder


def test_a_bundle_alone_has_no_run(tmp_path: Path) -> None:
    found = resolve(str(make_bundle(tmp_path / "b")), tmp_path)
    assert (found.bundle, found.run) == (tmp_path / "b", None)
    with pytest.raises(RunNotFound, match="a bundle without its run"):
        found.directory()


def test_an_address_of_a_bundle(tmp_path: Path) -> None:
    source = make_bundle(tmp_path / "b", version="far")
    with serving() as server:
        for name in ("bundle.json", "model.onnx"):
            server.files[f"/m/bundle/{name}"] = File((source / name).read_bytes(), etag='"1"')
        for ref in ("/m/bundle", "/m/bundle/", "/m/bundle/bundle.json", "/m"):
            found = resolve(server.url + ref, tmp_path / "models")
            assert infer.load(found.bundle).manifest.model == "digits@far"
            assert found.run is None
        with pytest.raises(RunNotFound, match="no bundle is at"):
            resolve(server.url + "/nothing", tmp_path / "models")


def test_an_address_where_nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proj.fetch.download.time.sleep", lambda _: None)
    with pytest.raises(Unreachable):
        resolve(f"http://127.0.0.1:{free_port()}/b", tmp_path)


def test_an_address_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(RunNotFound, match="https://, http:// and gs://"):
        resolve("ftp://host/b", tmp_path)


def test_a_folder_that_is_neither(tmp_path: Path) -> None:
    with pytest.raises(RunNotFound, match="neither a run directory nor a bundle"):
        resolve(str(tmp_path), tmp_path)


def test_a_mistyped_name_gets_the_closest(tmp_path: Path) -> None:
    made(tmp_path, "first-try")
    with pytest.raises(RunNotFound, match="did you mean first-try"):
        resolve("first-tri", tmp_path)
    with pytest.raises(RunNotFound, match="did you mean digits"):
        resolve("digit", tmp_path)
    with pytest.raises(RunNotFound, match="1 runs under"):
        resolve("models/digits/none", tmp_path)


def test_the_choice_is_printed_on_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    project = make_project(tmp_path / "p")
    monkeypatch.chdir(project)
    Image.new("L", (8, 8)).save("a.png")
    made(project / "models", "mine", bundle=True)
    said = call(capsys, "predict", "a.png", "--json")
    assert (said.code, said.err.count("using ")) == (0, 1)
    assert "digits/mine" in said.err
    assert "using" not in said.out
    assert "using" not in call(capsys, "predict", "a.png", "--run", "mine").err
