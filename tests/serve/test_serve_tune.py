"""What --tune measures, chooses and writes."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from bundles import make_bundle, make_series_bundle, make_text_bundle
from PIL import Image
from serving import Server, free_log

from proj import bundle as bundles
from proj.bundle import Sample
from proj.serve import trial, tune, tuned
from proj.serve.settings import Settings
from proj.serve.trial import Choice, Trial

BASE = Choice("onnxruntime", "fp32", 1, 2, 1)
OTHER = Choice("onnxruntime", "fp32", 2, 1, 1)
ROUNDED = Choice("openvino", "bf16", 1, 2, 8)


def seen(choice: Choice, *per_second: float, numbers: list[list[float]] | None = None) -> Trial:
    n = len(per_second)
    made = [np.array(x) for x in numbers or []]
    return Trial(choice, [*per_second], [40.0] * n, [80.0] * n, [1.5] * n, made)


def test_a_drawing_without_samples_is_asked_as_its_example(tmp_path: Path) -> None:
    manifest = bundles.read(make_bundle(tmp_path / "digits"))
    [(body, content_type)] = trial.inputs(manifest)
    assert content_type == "application/octet-stream"
    with Image.open(io.BytesIO(body)) as picture:
        assert np.array_equal(np.asarray(picture), manifest.example.array()[0, ..., 0])


def test_samples_are_asked_as_clients_would(tmp_path: Path) -> None:
    photo = base64.b64encode(b"\xff\xd8").decode()
    samples = (
        Sample(name="a", body={"image": f"data:image/jpeg;base64,{photo}"}),
        Sample(name="b", body={"image": photo}),
    )
    photos = trial.inputs(bundles.read(make_bundle(tmp_path / "photos", samples=samples)))
    assert photos == [(b"\xff\xd8", "application/octet-stream")] * 2
    texts = trial.inputs(bundles.read(make_text_bundle(tmp_path / "texts")))
    assert {kind for _, kind in texts} == {"application/json"}
    assert set(json.loads(texts[0][0])) == {"title", "text"}


def test_series_and_views_without_samples_are_made_of_the_example(tmp_path: Path) -> None:
    manifest = bundles.read(make_series_bundle(tmp_path / "robot", samples=()))
    [(body, _)] = trial.inputs(manifest)
    assert np.allclose(json.loads(body)["series"], manifest.example.array()[0])
    views = trial.inputs(bundles.read(make_bundle(tmp_path / "dish", shape=(8, 8, 3), fit="squash", views=2)))
    assert len(json.loads(views[0][0])["views"]) == 2


def test_the_defaults_stay_unless_another_is_faster_by_more_than_noise() -> None:
    tried = {BASE: seen(BASE, 800, 810), OTHER: seen(OTHER, 815, 820)}
    assert tune.choose(BASE, tried) == BASE
    tried[OTHER] = seen(OTHER, 900, 910)
    assert tune.choose(BASE, tried) == OTHER


def test_only_those_that_were_measured_to_the_end_are_chosen() -> None:
    tried = {BASE: seen(BASE, 800, 810), OTHER: seen(OTHER, 2000)}
    assert tune.choose(BASE, tried) == BASE


@pytest.mark.parametrize(
    ("choice", "numbers", "refused"),
    [
        (OTHER, [[0.7001, 0.2999]], ""),
        (OTHER, [[0.705, 0.295]], "differ by up to"),
        (ROUNDED, [[0.705, 0.295]], ""),
        (ROUNDED, [[0.8, 0.2]], "is off by"),
        (ROUNDED, [[0.49, 0.51]], "labels are others"),
    ],
)
def test_other_answers_are_refused(choice: Choice, numbers: list[list[float]], refused: str) -> None:
    base, t = seen(BASE, 800, numbers=[[0.7, 0.3]]), seen(choice, 2000, numbers=numbers)
    tune._compare(t, base, "classes")
    assert bool(t.failed) == bool(refused)
    assert refused in t.failed
    assert t.speed == (0 if refused else 2000)


def test_processes_and_threads_are_tried_around_the_cores() -> None:
    assert [(c.workers, c.threads) for c in tune.shares(BASE, 2)] == [(1, 3), (2, 1), (2, 2)]
    assert [(c.workers, c.threads) for c in tune.shares(Choice("onnxruntime", "fp32", 1, 1, 1), 1)] == [(1, 2)]
    assert {c.workers for c in tune.shares(BASE, 6)} == {1, 2, 4}


def test_serve_yaml_keeps_what_else_it_says(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text("# ours\nqueue_size: 300\nworkers: 7\n")
    tuned.write(path, OTHER, {BASE: seen(BASE, 800.0), OTHER: seen(OTHER, 900.0)})
    tuned.write(path, OTHER, {BASE: seen(BASE, 700.0), OTHER: seen(OTHER, 950.0)})
    text = path.read_text()
    assert yaml.safe_load(text) == {"queue_size": 300, **OTHER.settings}
    assert "# ours" in text
    assert "950 requests a second" in text
    assert "900" not in text
    assert "ONNX Runtime, 1 process x 2 threads, batch 1: 700 req/s" in text
    assert [p.name for p in tmp_path.iterdir()] == ["serve.yaml"]
    assert Settings.model_validate(yaml.safe_load(text)).workers == 2


def test_the_reasons_name_what_was_varied_and_what_was_refused() -> None:
    tried = {
        BASE: seen(BASE, 800.0), OTHER: seen(OTHER, 790.0), ROUNDED: seen(ROUNDED, 1100.0),
        (slow := Choice("onnxruntime", "fp32", 1, 2, 8)): Trial(slow, failed="status 500"),
    }  # fmt: skip
    said = "\n".join(tuned.reasons(BASE, ROUNDED, tried))
    assert "Taken: OpenVINO bf16, 1 process x 2 threads, batch 8. 1.38 times" in said
    assert "bf16 rounds" in said
    assert "With another engine, the best was ONNX Runtime, 1 process x 2 threads, batch 1: 0.73 of its speed" in said
    assert "Not taken: ONNX Runtime, 1 process x 2 threads, batch 8: status 500" in said
    assert "The defaults stay" in tuned.reasons(BASE, BASE, {BASE: seen(BASE, 800.0)})[0]
    rows = tuned.table(list(tried.values()), ROUNDED)
    assert rows[1].startswith("→")
    assert rows[-1].endswith("status 500")


def test_what_may_not_be_taken_is_no_rival() -> None:
    tried = {BASE: seen(BASE, 800.0), OTHER: seen(OTHER, 1000.0), ROUNDED: seen(ROUNDED, 1500.0)}
    said = "\n".join(tuned.reasons(BASE, OTHER, tried, may_round=False))
    assert "With another number of processes, the best was ONNX Runtime" in said
    assert "With another engine" not in said
    assert "bf16 had 1.50 times its speed" in said


def test_a_rival_that_was_faster_in_fewer_looks_is_not_called_equal() -> None:
    tried = {BASE: seen(BASE, 800.0, 810.0), OTHER: seen(OTHER, 900.0)}
    said = "\n".join(tuned.reasons(BASE, BASE, tried))
    assert "the best was ONNX Runtime, 2 processes x 1 thread, batch 1: 1.12 of its speed, in 1 look of 2" in said


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_bf16_is_taken_only_by_name(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def attempt(t: Trial, *_: object) -> None:
        t.numbers = [np.array([0.7, 0.3])]
        for figures in (t.per_second, t.p50_ms, t.p99_ms, t.one_ms):
            figures.append(2000.0 if t.choice.precision == "bf16" else 800.0)

    monkeypatch.setattr(trial, "attempt", attempt)
    settings = Settings.model_validate({"engine": "openvino", "precision": precision})
    path = tune.run(make_bundle(tmp_path / "run" / "bundle"), settings, say=lambda _: None)
    assert yaml.safe_load(path.read_text())["precision"] == precision
    assert ("taken only by name" in capsys.readouterr().out) == (precision == "fp32")


@pytest.mark.slow
def test_a_real_server_is_tuned_and_started_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_bundle(tmp_path / "run" / "bundle", work=20)
    path = tune.run(bundle, Settings.model_validate({}), budget_s=15)
    said = capsys.readouterr()
    assert path == tmp_path / "run" / "serve.yaml"
    chosen = yaml.safe_load(path.read_text())
    assert chosen.keys() == BASE.settings.keys()
    assert "→" in said.out
    assert "ONNX Runtime" in said.err
    assert "other answers" not in said.err
    with Server(bundle, free_log(tmp_path), **chosen) as server:
        assert server.client.get("/ready").status_code == 200
