"""The page as its reader meets it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from made_run import NAMES, WRONG, Made, make
from page import Page, page, pixels

from proj import runs
from proj.report.run import write


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The report of the run as it is made: drawn once for the tests that only read it."""
    return page(make(tmp_path_factory.mktemp("whole")))


def test_is_written_whole_and_alone(made: Made, whole: Page) -> None:
    before = {p.name for p in made.run.iterdir()}
    path = write(made.run, made.prepared)
    assert path == made.run / "report.html"
    assert {p.name for p in made.run.iterdir()} - before == {"report.html"}
    found = Page(path)
    assert found.open == []
    assert found.source.startswith("<!doctype html>")
    assert found.source == whole.source  # the same files, in another folder: the same page


def test_loads_nothing_and_runs_nothing(whole: Page) -> None:
    links = [a[k] for _, a in whole.elements for k in ("src", "href", "xlink:href", "action", "srcset") if k in a]
    assert links
    assert all(link.startswith(("#", "data:")) for link in links)
    assert whole.all("script") == []
    assert not [k for _, a in whole.elements for k in a if k.startswith("on")]
    assert "@import" not in whole.source
    assert "url(http" not in whole.source
    policy = [a["content"] for a in whole.all("meta") if "Content-Security-Policy" in a.get("http-equiv", "")]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_references_inside_the_page_lead_somewhere(whole: Page) -> None:
    ids = [a["id"] for _, a in whole.elements if "id" in a]
    assert len(ids) == len(set(ids))
    wanted = [a[k][1:] for _, a in whole.elements for k in ("href", "xlink:href") if a.get(k, "").startswith("#")]
    assert set(wanted) <= set(ids)


def test_every_picture_is_one(whole: Page) -> None:
    pictures = whole.all("img")
    assert len(pictures) == len(WRONG) + 3 * 10
    for img in pictures:
        assert pixels(img["src"]).shape == (8, 8)
        assert img["alt"]


def test_headline(whole: Page) -> None:
    header = whole.text("")
    assert "Which pet is <this>?" in header
    assert "accuracy 0.900" in header
    assert "test items 30" in header
    assert "most frequent class: 0.333" in header
    assert "15 groups" in header


def test_names_are_text_never_markup(whole: Page) -> None:
    assert "<b>x" in whole.text("results")
    assert 'dog & "co"' in whole.text("results")
    assert "<b>x" not in whole.source


def test_worst_mistakes_come_surest_first(made: Made) -> None:
    found = page(made)
    text = found.text("mistakes")
    order = sorted(WRONG, key=lambda i: -WRONG[i][1])
    places = [text.index(f"photo {60 + i}.jpg") for i in order]
    assert places == sorted(places)
    for i in order:
        said, sure = WRONG[i]
        assert f"said {NAMES[said]} {sure:.2f} true {NAMES[i % 3]}" in text
    assert text.count("photo ") == len(WRONG)
    x = np.load(made.prepared / "x.npy")
    shown = [pixels(a["src"]) for a in found.all("img") if a["alt"].startswith("photo")]
    for picture, i in zip(shown, order, strict=True):
        np.testing.assert_array_equal(picture, x[60 + i, :, :, 0])


def test_tiny_pictures_are_enlarged_crisply_large_ones_brought_down(made: Made, whole: Page) -> None:
    assert {a["class"] for a in whole.all("img")} == {"tiny"}
    photos = np.random.default_rng(0).integers(0, 255, (90, 120, 300, 3), dtype=np.uint8)
    np.save(made.prepared / "x.npy", photos)
    large = page(made).all("img")
    assert not [a for a in large if "class" in a]
    assert {a["src"][:16] for a in large} == {"data:image/jpeg;"}
    assert max(int(a["width"]) for a in large) == 192
    assert all(pixels(a["src"]).shape[1] == int(a["width"]) for a in large)


def test_learning_curves_and_best_epoch(whole: Page) -> None:
    text = whole.text("learning")
    assert text.count("epoch") >= 3  # one axis a chart
    for title in ("Loss", "Validation", "Learning rate"):
        assert title in text
    assert "Dotted: epoch 1, the best (validation loss 0.4, accuracy 0.8, macro F1 0.79)." in text
    assert "var(--first)" in whole.source
    assert "#030303" not in whole.source


def test_metrics_json_may_name_the_best_epoch(made: Made) -> None:
    made.change("metrics.json", best_epoch=3)
    assert "Dotted: epoch 3, the best" in page(made).text("learning")


def test_confusion_matrix_and_pairs(whole: Page) -> None:
    text = whole.text("results")
    # Test rows 2 and 11 are of class 2 (said 0 and 1), row 7 of class 1 (said 2).
    assert 'dog & "co" taken for cat : 1 of 10 (10 %)' in text
    assert '<b>x taken for dog & "co" : 1 of 10 (10 %)' in text
    cells = [a for a in whole.all("g") if a.get("class", "").startswith(("right", "wrong"))]
    assert sum("right" in a["class"] for a in cells) == 3
    assert sum("wrong" in a["class"] for a in cells) == 3


@pytest.mark.parametrize(("record", "said"), [({"sample": True}, "Synthetic data"), ({"fast": True}, "--fast")])
def test_a_banner_for_what_is_no_result(made: Made, whole: Page, record: dict[str, bool], said: str) -> None:
    assert "banner" not in [a.get("class") for a in whole.all("p")]
    made.change("run.json", **record)
    found = page(made)
    assert [a["role"] for a in found.all("p") if a.get("class") == "banner"] == ["alert"]
    assert said in found.text("")


def test_synthetic_data_are_known_by_the_prepared_folder_too(made: Made) -> None:
    meta = made.prepared / "meta.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "sample": True}))
    assert "Synthetic data" in page(made).text("")


def test_a_failed_run_says_why(made: Made) -> None:
    made.change("run.json", status="failed", error="disk full")
    assert "The run did not finish: disk full." in page(made).text("")


def test_a_run_in_work_is_not_called_failed(made: Made) -> None:
    made.change("run.json", status="running")
    with runs.lock(made.run):
        assert "did not finish" not in page(made).text()


def test_what_made_it(whole: Page) -> None:
    text = whole.text("made")
    assert "proj train task=pets model.lr=1e-3 'task.names=[a b]'" in text
    assert "seed 7" in text
    assert "4f0c2d91a7be with uncommitted changes" in text
    assert "train 1 min 01 s, evaluate 0.4 s" in text
    assert "torch 2.9.0" in text
    assert "model: lr: 0.001" in text


def test_data_section(whole: Page) -> None:
    text = whole.text("data")
    assert "45 for training, 15 for validation, 30 for the test" in text
    assert "cat 15 5 10" in text
    assert "1 files that could not be read" in text or "1 file that could not be read" in text
    assert "cat/broken.jpg: cut off" in text


def test_folds(made: Made) -> None:
    (made.run / "metrics.csv").unlink()
    accuracy = [0.9, 0.8, 1.0]
    for i in range(3):
        (made.run / "folds" / str(i)).mkdir(parents=True)
        (made.run / "folds" / str(i) / "metrics.csv").write_text("epoch,train_loss,val_loss\n0,1,1\n1,.5,.6\n")
    made.change(
        "metrics.json",
        folds=[{"fold": i, "metrics": {"accuracy": a}, "seconds": 65.0} for i, a in enumerate(accuracy)],
        mean={"accuracy": 0.9},
        std={"accuracy": 0.1},
        baselines=None,
    )
    found = page(made)
    assert "accuracy 0.900 ± 0.100 over 3 folds" in found.text("")
    text = found.text("folds")
    assert "0 0.900 1 min 05 s 1 0.800 1 min 05 s 2 1.000 1 min 05 s mean ± std 0.900 ± 0.100" in text
    assert "One line a fold." in found.text("learning")
    assert "Results over all folds" in found.text("results")


def test_nothing_but_the_record(made: Made) -> None:
    for path in list(made.run.iterdir()):
        if path.name != "run.json":
            path.unlink()
    found = Page(write(made.run, None))
    assert "has not been evaluated" in found.text("")
    assert "There are no learning curves" in found.text("learning")
    assert "There is no predictions.npz yet" in found.text("mistakes")
    assert "The prepared data are not there" in found.text("data")
    assert "There is no config.yaml" in found.text("made")


@pytest.mark.parametrize("missing", ["metrics.csv", "metrics.json", "predictions.npz", "config.yaml"])
def test_each_part_may_be_missing(made: Made, missing: str) -> None:
    (made.run / missing).unlink()
    found = page(made)
    assert found.open == []
    assert found.text("made")


def test_prepared_data_that_are_gone(made: Made) -> None:
    shutil.rmtree(made.prepared)
    found = page(made)
    assert found.all("img") == []
    assert "The prepared data are not there" in found.text("data")
    assert "photo 67.jpg" in found.text("mistakes")


def test_no_mistakes_and_no_test_rows(made: Made) -> None:
    saved = dict(np.load(made.run / "predictions.npz"))
    saved["prob"] = np.eye(3, dtype=np.float32)[saved["y"]]
    np.savez(made.run / "predictions.npz", **saved)
    assert "There are none: every test item was recognised." in page(made).text("mistakes")
    np.savez(made.run / "predictions.npz", **{k: v[:0] for k, v in saved.items()})
    made.change("metrics.json", confusion=np.zeros((3, 3), int).tolist())
    assert page(made).open == []


def test_many_classes_list_the_weakest_and_draw_no_matrix(made: Made) -> None:
    k = 60
    names = [f"class {i}" for i in range(k)]
    matrix = np.eye(k, dtype=int) * 9
    matrix[0, 1] = 4
    per = {n: {"precision": 1, "recall": 1, "f1": 1 - i / 100, "support": 9} for i, n in enumerate(names)}
    made.change("metrics.json", names=names, confusion=matrix.tolist(), per_class=per)
    (made.run / "predictions.npz").unlink()
    found = page(made)
    text = found.text("results")
    assert "60 classes are too many for a matrix." in text
    assert "class 0 taken for class 1 : 4 of 13 (31 %)" in text
    weakest = text.partition("The ten weakest classes")[2].partition("All 60 classes")[0]
    assert [n for n in names if f"{n} 9" in weakest] == names[-10:]


def test_values_with_units(made: Made) -> None:
    rng = np.random.default_rng(1)
    y = rng.random((90, 2)).astype(np.float32) * 100
    np.save(made.prepared / "y.npy", y)
    index = np.arange(60, 90)
    pred = y[index] + rng.normal(size=(30, 2)).astype(np.float32)
    pred[4] += 500
    ids = np.array([f"dish {i}" for i in index])
    np.savez(made.run / "predictions.npz", index=index, y=y[index], pred=pred, id=ids)
    names = ["energy", "cost $ of $"]
    made.change(
        "metrics.json",
        kind="values",
        names=names,
        units=["kcal", "DKK"],
        metrics={"mae": 12.5},
        confusion=None,
        per_class=None,
    )
    found = page(made)
    assert "energy, mean absolute error" in found.text("")
    assert "energy kcal" in found.text("results")
    assert "R²" in found.text("results")
    assert found.text("results").count("predicted") >= 2
    assert next(t for t in found.texts["mistakes"] if t.startswith("dish")) == "dish 64"
    assert len([a for a in found.all("figure") if "predicted against true" in a.get("aria-label", "")]) == 2


def test_rows_that_are_no_pictures(made: Made) -> None:
    (made.prepared / "x.npy").unlink()
    found = page(made)
    assert found.all("img") == []
    assert "The inputs are not shown" in found.text("mistakes")


def test_a_report_stays_small(made: Made) -> None:
    """The worst case: photos of pure noise, which JPEG cannot make smaller."""
    photos = np.random.default_rng(0).integers(0, 255, (90, 224, 224, 3), dtype=np.uint8)
    np.save(made.prepared / "x.npy", photos)
    saved = dict(np.load(made.run / "predictions.npz"))
    saved["prob"] = np.roll(np.eye(3, dtype=np.float32), 1, 1)[saved["y"]]
    np.savez(made.run / "predictions.npz", **saved)
    assert write(made.run, made.prepared).stat().st_size < 3_000_000


def test_imports_neither_torch_nor_pyplot(made: Made) -> None:
    code = (
        "import sys; from pathlib import Path; from proj.report.run import write\n"
        "assert not {'matplotlib', 'jinja2', 'PIL'} & set(sys.modules), 'heavy at import time'\n"
        f"write(Path({str(made.run)!r}), Path({str(made.prepared)!r}))\n"
        "heavy = {'torch', 'hydra', 'matplotlib.pyplot', 'proj.data', 'proj.train', 'proj.config'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
