"""`proj train` and `proj evaluate` on texts: another source, and a language model whose folder is gone."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from made_projects import project

from proj import infer
from proj.errors import DataError, UsageError
from proj.verbs import evaluate
from proj.verbs import job as jobs
from proj.verbs import train as verb

REAL = "the ministry said on monday that parliament will vote next week on law number"
FAKE = "you will not believe what this shocking secret video shows wow number"


def _word(i: int) -> str:
    """Letters that differ from row to row: copies, by letters alone, would be one group."""
    return "".join(chr(97 + int(d)) for d in str(i * 7919))


def posts(path: Path, n: int, *, swap: bool = False) -> Path:
    """`n` rows of two kinds; `swap`: every label wrong."""
    with path.open("w", newline="", encoding="utf-8") as f:
        rows = csv.writer(f)
        rows.writerow(["text", "label"])
        for i in range(n):
            rows.writerow([f"{(REAL, FAKE)[i % 2]} {_word(i)}", ("real", "fake")[(i + swap) % 2]])
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[jobs.Job, Path]:
    folder = tmp_path_factory.mktemp("posts")
    source = posts(folder / "own.csv", 300)
    words = ["task=fakenews", "model=linear", "model.buckets=5000", f"data.source='{source}'", "trainer.max_epochs=6"]
    job = jobs.job(words, project(folder))
    run, content = verb.train(job, fast=False, name="one")
    assert content["metrics"]["accuracy"] > 0.9
    return job, run


def test_another_source_is_scored_and_the_runs_own_scores_stay(trained: tuple[jobs.Job, Path], tmp_path: Path) -> None:
    job, run = trained
    before = (run / "metrics.json").read_bytes()
    for name, swap, accuracy in (("alike.csv", False, 1.0), ("wrong.csv", True, 0.0)):
        other = posts(tmp_path / name, 60, swap=swap)
        content = evaluate.evaluate(run, job.project, [f"data.source='{other}'"])
        assert content["metrics"]["accuracy"] == pytest.approx(accuracy, abs=0.1)
        assert content["rows"] == 60
    assert (run / "metrics.json").read_bytes() == before
    listed = json.loads((run / "others.json").read_text())
    assert [Path(o["source"]).name for o in listed] == ["alike.csv", "wrong.csv"]
    assert "wrong.csv" in (run / "report.html").read_text(encoding="utf-8")


def test_what_it_was_trained_on_is_no_other_source(trained: tuple[jobs.Job, Path]) -> None:
    job, run = trained
    with pytest.raises(UsageError, match="is what one was trained on"):
        evaluate.evaluate(run, job.project, [f"data.source='{run.parents[2] / 'own.csv'}'"])


def test_a_source_is_all_that_can_be_changed(trained: tuple[jobs.Job, Path]) -> None:
    job, run = trained
    with pytest.raises(UsageError, match=r"cannot change model\.lr"):
        evaluate.evaluate(run, job.project, ["model.lr=1"])


@pytest.mark.slow
def test_classes_that_the_model_does_not_know_are_counted_apart(tmp_path: Path) -> None:
    def bitmaps(folder: Path, **categories: int) -> Path:
        folder.mkdir()
        rng = np.random.default_rng(0)
        for k, (name, n) in enumerate(categories.items()):
            x = np.zeros((n, 28, 28), np.uint8)
            x[:, 4 + 6 * k : 8 + 6 * k, 3:25] = 255
            x = np.maximum(x, rng.integers(0, 90, x.shape, dtype=np.uint8))
            np.save(folder / f"full_numpy_bitmap_{name}.npy", x.reshape(n, 784))
        return folder

    tiny = ("model.backbone=test_resnet", "model.input_size_px=0", "trainer.precision=32", "trainer.max_epochs=1")
    source = bitmaps(tmp_path / "own", cat=60, dog=60)
    job = jobs.job(["task=quickdraw", *tiny, f"data.source='{source}'"], project(tmp_path / "p"))
    run, _ = verb.train(job, fast=False, name="two")
    other = bitmaps(tmp_path / "other", bird=7, cat=9, dog=5)
    content = evaluate.evaluate(run, job.project, [f"data.source='{other}'"])
    assert (content["rows"], content["unknown"]) == (14, {"bird": 7})
    with pytest.raises(DataError, match="no row of a class that the model knows"):
        evaluate.evaluate(run, job.project, [f"data.source='{bitmaps(tmp_path / 'none', bird=7)}'"])


@pytest.mark.slow
def test_a_language_model_needs_its_folder_only_to_train(tmp_path: Path) -> None:
    from train.test_texts import distilbert

    model = Path(shutil.copytree(distilbert(tmp_path / "made"), tmp_path / "bert"))
    source = posts(tmp_path / "own.csv", 80)
    bert = ("model=pretrained", f"model.backbone='{model}'", "trainer.max_epochs=2")
    words = ["task=fakenews", *bert, f"data.source='{source}'"]
    job = jobs.job(words, project(tmp_path / "p"))
    run, content = verb.train(job, fast=False, name="bert")
    shutil.rmtree(model)
    again = evaluate.evaluate(run, job.project)
    assert again["metrics"] == pytest.approx(content["metrics"], abs=1e-5)
    bundle = evaluate.export(run, job.project)
    loaded = infer.load(bundle)
    y = infer.run(loaded, infer.batch([infer.decode(loaded, REAL)]))[0]
    assert y.sum() == pytest.approx(1, abs=1e-4)
