"""What every task must do: found by name, one YAML, and from sample rows to a served answer."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from made_projects import ROOT, project
from PIL import Image
from serve.serving import Server

from proj import bundle, runs, task
from proj.data import prepare
from proj.task import Options, Row, Task
from proj.verbs import evaluate
from proj.verbs import job as jobs
from proj.verbs import train as verb

TASKS = task.available()
# Photos of full size would take seconds: a task that has such options is tried on small ones.
SMALL = {"height_px": 32, "width_px": 32}


def test_there_are_tasks() -> None:
    assert {"digits", "trashnet"} <= set(TASKS)


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
    assert len(t.units) == (len(t.names(options)) if t.kind == "values" else 0)
    assert t.default_source or t.source_help
    h, w, c = t.spec(options).shape
    assert min(h, w) >= 1
    assert c in {1, 3}


@pytest.mark.parametrize("name", TASKS)
def test_sample_rows_are_deterministic_and_whole(name: str) -> None:
    t = task.get(name)
    options = _options(t)
    rows, again = t.sample(30, options), t.sample(30, options)
    assert len(rows) == len({r.id for r in rows}) == 30
    assert len({r.group for r in rows}) >= 3
    for r, s in zip(rows, again, strict=True):
        assert isinstance(r, Row)
        assert isinstance(r.x, np.ndarray)
        assert isinstance(s.x, np.ndarray)
        assert r.x.dtype == np.uint8
        assert np.array_equal(r.x, s.x)
        assert (r.id, r.group, r.y) == (s.id, s.group, s.y)
        if t.kind == "classes":
            assert r.y in (t.names(options) or {row.y for row in rows})
        else:
            assert len(r.y) == len(t.names(options))


@pytest.mark.parametrize("name", TASKS)
def test_from_sample_rows_to_a_served_answer(name: str, tmp_path: Path) -> None:
    t = task.get(name)
    own = t.options.__dataclass_fields__
    small = [f"task.{k}={v}" for k, v in SMALL.items() if k in own]
    words = [f"task={name}", "model=small", "data.source=sample", *small]
    job = jobs.job(words, project(tmp_path))
    run, content = verb.train(job, fast=True, name="one")

    record = runs.read(run)
    assert (record.status, record.sample, record.fast, record.task) == ("finished", True, True, name)
    assert not runs.eligible(record)
    assert evaluate.evaluate(run, job.project)["metrics"] == pytest.approx(content["metrics"], abs=1e-6)
    manifest = bundle.read(run / "bundle")
    assert (manifest.synthetic, manifest.fast) == (True, True)
    report = (run / "report.html").read_text(encoding="utf-8")
    assert "synthetic" in report.lower()
    assert t.title in report or name in report

    picture = prepare.prepare(t, job.cfg, job.project.data, fast=True).x[0]
    file = io.BytesIO()
    Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(file, "PNG")
    with Server(run / "bundle", tmp_path / "server-0.log") as server:
        answer = server.client.post("/predict", content=file.getvalue(), headers={"content-type": "image/png"})
        page = server.client.get("/")
        about = server.client.get("/model").json()
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
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert t.question in json.dumps(about)  # the page shows what /model says
    assert "synthetic" in json.dumps(about)
