"""`proj evaluate` and `proj export`: the same numbers, the same bundle, and only on the same data."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_projects import Finished, prepared

from proj import infer, runs
from proj.data import store
from proj.errors import ConfigError, DataError, ResourceError, RunNotFound, UsageError
from proj.verbs import evaluate


@pytest.fixture
def run(finished: Finished, tmp_path: Path) -> Path:
    """A copy of the finished run, outside of its project."""
    return Path(shutil.copytree(finished.run, tmp_path / "copy"))


def test_evaluate_gives_the_numbers_that_train_gave(finished: Finished, run: Path) -> None:
    for name in ("metrics.json", "predictions.npz", "report.html"):
        (run / name).unlink()
    content = evaluate.evaluate(run, finished.project)
    for part in ("metrics", "per_class", "confusion", "baselines", "names", "split"):
        assert content[part] == finished.content[part], part
    assert json.loads((run / "metrics.json").read_text()) == content
    with np.load(run / "predictions.npz") as a, np.load(finished.run / "predictions.npz") as b:
        assert np.array_equal(a["prob"], b["prob"])
    assert (run / "report.html").stat().st_size > 10_000


def test_export_again_gives_the_same_answers(finished: Finished, run: Path) -> None:
    shutil.rmtree(run / "bundle")
    made = evaluate.export(run, finished.project)
    assert made == run / "bundle"
    first, second = (infer.load(f / "bundle") for f in (finished.run, run))
    x = np.ascontiguousarray(prepared(finished.job).x[:50])
    assert np.allclose(infer.run(first, x), infer.run(second, x), atol=1e-6)
    assert second.manifest.version == "copy"  # the folder's own name
    same = {"version": "", "created": "", "example": first.manifest.example}
    assert first.manifest.model_copy(update=same) == second.manifest.model_copy(update=same)


def test_changed_data_are_an_error(finished: Finished, run: Path) -> None:
    runs.write(run, replace(runs.read(run), data_hash="0" * 64))
    for verb in (evaluate.evaluate, evaluate.export):
        with pytest.raises(DataError, match=r"the data of copy have changed .*dvc checkout"):
            verb(run, finished.project)


def test_a_source_that_has_changed_is_an_error(finished: Finished, run: Path, tmp_path: Path) -> None:
    # The run's config names a file; the file is not what it was.
    import gzip

    from proj.project import Project

    raw = next((finished.project.data / "raw/digits").glob("*.gz"))
    lines = gzip.decompress(raw.read_bytes()).splitlines(keepends=True)
    (tmp_path / "digits.csv.gz").write_bytes(gzip.compress(b"".join(lines[:-40])))
    text = (run / "config.yaml").read_text().replace("source: default", f"source: {tmp_path / 'digits.csv.gz'}")
    (run / "config.yaml").write_text(text)
    with pytest.raises(DataError, match="have changed since it was trained"):
        evaluate.evaluate(run, Project(tmp_path / "p", finished.project.configs, "test"))


def test_a_cross_validation_has_no_model(finished: Finished, run: Path) -> None:
    runs.write(run, replace(runs.read(run), folds=5))
    with pytest.raises(UsageError, match="cross-validation"):
        evaluate.evaluate(run, finished.project)


def test_a_run_in_use_is_left_alone(finished: Finished, run: Path) -> None:
    with runs.lock(run), pytest.raises(ResourceError, match="in use by another process"):
        evaluate.evaluate(run, finished.project)


@pytest.mark.parametrize(
    ("file", "error"),
    [("run.json", RunNotFound), ("config.yaml", ConfigError), ("checkpoints/best.ckpt", ResourceError)],
)
@pytest.mark.parametrize("how", ["gone", "broken"])
def test_a_run_that_lacks_a_part_is_an_error(
    finished: Finished, run: Path, file: str, error: type[Exception], how: str
) -> None:
    if how == "gone":
        (run / file).unlink()
    else:
        (run / file).write_bytes(b"{ broken")
    with pytest.raises(error):
        evaluate.evaluate(run, finished.project)


def test_pretrained_weights_are_not_asked_for_again(
    finished: Finished, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The checkpoint has them; the file that they came from may be gone.
    text = (run / "config.yaml").read_text().replace("weights: ''", "weights: /nowhere/w.safetensors")
    assert "/nowhere" in text
    (run / "config.yaml").write_text(text.replace("pretrained: false", "pretrained: true"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert evaluate.evaluate(run, finished.project)["metrics"] == finished.content["metrics"]


def test_prepared_data_that_are_gone_are_made_again(finished: Finished, run: Path, tmp_path: Path) -> None:
    from proj.project import Project

    elsewhere = Project(tmp_path / "p", finished.project.configs, "test")
    assert evaluate.evaluate(run, elsewhere)["metrics"] == finished.content["metrics"]
    (folder,) = (tmp_path / "p/data/prepared/digits").glob("[0-9a-f]*")
    assert store.open_(folder).meta.data_hash == runs.read(run).data_hash
