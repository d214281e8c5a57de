"""What every task must do: found by name, one YAML, and from sample rows to a served answer."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from made_projects import ROOT, project
from PIL import Image
from serve.serving import Server

from proj import bundle, infer, runs, task
from proj.data import prepare
from proj.preprocess.spec import ImageSpec, SeriesSpec, TextSpec
from proj.task import Options, Row, Task
from proj.train import inputs
from proj.verbs import evaluate
from proj.verbs import job as jobs
from proj.verbs import train as verb

TASKS = task.available()
# Photos of full size would take seconds: a task that has such options is tried on small ones.
SMALL = {"height_px": 32, "width_px": 32}
LIKE_OTHERS = {"quickdraw", "robot", "trashnet"}  # of another's modality, and of nothing new


def test_there_are_tasks() -> None:
    assert {"digits", "quickdraw", "trashnet", "nutrition", "fakenews", "wheel", "robot"} <= set(TASKS)


def test_each_task_has_one_yaml_that_names_it() -> None:
    assert sorted(p.stem for p in (ROOT / "configs/task").glob("*.yaml")) == TASKS
    for name in TASKS:
        content = yaml.safe_load((ROOT / f"configs/task/{name}.yaml").read_text())
        assert content["task"]["name"] == name


def _options(t: Task) -> Options:
    own = t.options.__dataclass_fields__
    return t.options(name=t.name, **{k: v for k, v in SMALL.items() if k in own})


@pytest.mark.parametrize("name", TASKS)
def test_a_task_says_what_it_is(name: str) -> None:
    t = task.get(name)
    options = _options(t)
    assert t.name == name
    assert t.title
    assert t.question.endswith("?")
    assert issubclass(t.options, Options)
    names = t.names(options)
    assert len(set(names)) == len(names)
    assert names or t.kind == "classes"  # only classes can be left to the data
    assert len(t.units(options)) == (len(names) if t.kind == "values" else 0)
    assert t.source(options) or t.source_help
    kind = {"image": ImageSpec, "text": TextSpec, "series": SeriesSpec}[t.modality]
    assert isinstance(t.spec(options), kind)


@pytest.mark.parametrize("name", TASKS)
def test_sample_rows_are_deterministic_and_whole(name: str) -> None:
    t = task.get(name)
    options = _options(t)
    rows, again = t.sample(30, options), t.sample(30, options)
    assert len(rows) == len({r.id for r in rows}) == 30
    assert len({r.group for r in rows}) >= 3
    for r, s in zip(rows, again, strict=True):
        assert isinstance(r, Row)
        assert (r.id, r.group, r.y) == (s.id, s.group, s.y)
        assert _plain(r.x) == _plain(s.x)
        if t.kind == "classes":
            assert r.y in (t.names(options) or {row.y for row in rows})
        else:
            assert len(r.y) == len(t.names(options))


def _plain(x: Any) -> Any:
    """Something that can be compared: synthetic rows are arrays or texts, never files."""
    if isinstance(x, tuple):
        return [_plain(v) for v in x]
    if isinstance(x, Mapping):
        return dict(x)
    assert isinstance(x, np.ndarray)
    return (str(x.dtype), x.shape, x.tobytes())


def _words(t: Task) -> list[str]:
    own = t.options.__dataclass_fields__
    small = [f"task.{k}={v}" for k, v in SMALL.items() if k in own]
    tiny = ["model.backbone=test_resnet", "model.input_size_px=0"] if t.modality == "image" else []
    return [f"task={t.name}", "model=small", "data.source=sample", *small, *tiny]


@pytest.mark.parametrize("name", [pytest.param(t, marks=pytest.mark.slow if t in LIKE_OTHERS else ()) for t in TASKS])
def test_from_sample_rows_to_a_served_answer(name: str, tmp_path: Path) -> None:
    t = task.get(name)
    job = jobs.job(_words(t), project(tmp_path))
    run, content = verb.train(job, fast=True, name="one")

    record = runs.read(run)
    assert (record.status, record.sample, record.fast, record.task) == ("finished", True, True, name)
    assert not runs.eligible(record)
    assert evaluate.evaluate(run, job.project)["metrics"] == pytest.approx(content["metrics"], abs=1e-5)
    manifest = bundle.read(run / "bundle")
    assert (manifest.synthetic, manifest.fast) == (True, True)
    report = (run / "report.html").read_text(encoding="utf-8")
    assert "synthetic" in report.lower()
    assert t.title in report or name in report

    prepared = prepare.prepare(t, job.cfg, job.project.data, fast=True)
    _no_group_is_in_two_splits(prepared)
    row = int(prepared.rows("test")[0])
    given = _as_given(prepared.x, row)
    _the_server_reads_it_as_training_did(run, job, prepared, row, given)
    with Server(run / "bundle", tmp_path / "server-0.log") as server:
        answer = server.client.post("/predict", **_request(given))
        page = server.client.get("/")
        about = server.client.get("/model").json()
        clicked = [server.client.post("/predict", json=s["body"]) for s in about["samples"]]
    said = answer.json()
    assert answer.status_code == 200, said
    assert said["model"] == f"{name}@one"
    assert "synthetic" in said["warning"]
    if t.kind == "classes":
        assert set(said["probabilities"]) == set(manifest.names)
        assert sum(said["probabilities"].values()) == pytest.approx(1, abs=1e-4)
        assert said["label"] == max(said["probabilities"], key=said["probabilities"].get)
    else:
        assert set(said["values"]) == set(manifest.names)
        assert [v["unit"] for v in said["values"].values()] == list(t.units(job.cfg.task))
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert t.question in json.dumps(about)  # the page shows what /model says
    assert "synthetic" in json.dumps(about)
    assert [c.status_code for c in clicked] == [200] * len(clicked)
    assert clicked or t.page_input == "sketch"


def _no_group_is_in_two_splits(prepared: Any) -> None:
    groups = [set(prepared.group[prepared.rows(s)]) for s in ("train", "val", "test")]
    assert all(groups)
    assert not groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2]


def _as_given(x: Any, row: int) -> Any:
    """A row as its user has it: a text, a table, a file, or the files of several views."""
    one = x[row]
    if isinstance(one, str):
        return one
    one = np.asarray(one)
    if one.dtype == np.float32:
        return one.tolist()
    return [_png(v) for v in one] if one.ndim == 4 else _png(one)


def _png(x: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(x[..., 0] if x.shape[-1] == 1 else x).save(file, "PNG")
    return file.getvalue()


def _request(given: Any) -> dict[str, Any]:
    if isinstance(given, str):
        return {"json": {"text": given}}
    if isinstance(given, bytes):
        return {"content": given, "headers": {"content-type": "image/png"}}
    if isinstance(given[0], bytes):
        return {"files": [("views", (f"{i}.png", v, "image/png")) for i, v in enumerate(given)]}
    return {"json": {"series": given}}


def _the_server_reads_it_as_training_did(run: Path, job: jobs.Job, prepared: Any, row: int, given: Any) -> None:
    """Bit for bit, from what a user sends. A drawing is cut out anew, so that its array is sent in the file's place."""
    model = infer.load(run / "bundle")
    view = inputs.view(prepared, job.cfg.model, tokenizer=model.tokenizer)
    learned = np.asarray(view.x[np.array([row])])[0]
    if isinstance(model.spec, ImageSpec) and model.spec.fit == "ink":
        given = np.asarray(prepared.x[row])
    got = infer.decode(model, given)
    assert got.dtype == learned.dtype
    assert np.array_equal(got, learned)


@pytest.mark.parametrize("name", TASKS)
def test_names_and_units_exist_in_one_place(name: str) -> None:
    t = task.get(name)
    names = [n for n in t.names(_options(t)) if len(n) > 2]
    if len(names) < 3:
        pytest.skip("too few names to tell a copy from a coincidence")
    for path in [*(ROOT / "src").rglob("*"), *(ROOT / "configs").rglob("*.yaml")]:
        if path.suffix in {".py", ".yaml", ".js", ".html"} and path.name not in {f"{name}.py", f"{name}.yaml"}:
            words = path.read_text(encoding="utf-8")
            copied = [n for n in names if f'"{n}"' in words or f"'{n}'" in words]
            assert len(copied) <= len(names) / 2, f"{path} knows {copied}"
