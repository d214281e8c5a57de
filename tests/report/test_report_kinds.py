"""The report of each modality and kind: what it shows of inputs, of what weighed in them, and of figures in units."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_kinds import CHANNELS, KINDS, series, sketches, texts, values
from made_run import Made
from page import page, pixels

from proj.errors import CheckFailed
from proj.report import findings, measure, pictures, quotes, traces
from proj.report.quotes import marked
from proj.report.read import material


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_one_whole_page(tmp_path: Path, kind: str) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    found = page(KINDS[kind](tmp_path / "a"))
    assert found.source == page(KINDS[kind](tmp_path / "b")).source  # the same files: the same bytes
    assert found.open == []
    links = [a[k] for _, a in found.elements for k in ("src", "href", "xlink:href") if k in a]
    assert all(link.startswith(("#", "data:")) for link in links)
    wanted = {link[1:] for link in links if link.startswith("#")}
    assert wanted <= {a["id"] for _, a in found.elements if "id" in a}
    assert "<everything>" not in found.source
    assert "<z>" not in found.source
    assert "not clearly" not in found.text("findings").lower()
    assert found.text("mistakes").count("said") >= 1


def said_of(made: Made) -> dict[str, bool]:
    """Findings, without drawing the page."""
    m = material(made.run, made.prepared)
    return {f.text: f.serious for f in findings.found(m, measure.intervals(m))}


def test_texts_are_quoted_with_the_words_that_weighed(tmp_path: Path) -> None:
    made = texts(tmp_path)
    found = page(made)
    marks = [a["class"] for a in found.all("mark") if "style" in a]
    assert {"for", "against"} == {*marks}
    look = json.loads((made.run / "looks.json").read_text())[0]
    a, b, _ = look["spans"][0]
    assert look["text"][a:b] in found.text("mistakes")
    assert "item 181" in found.text("mistakes")
    assert found.text("data").count("…") >= 4
    assert found.all("img") == []


def test_texts_without_looks_are_quoted_plainly(tmp_path: Path) -> None:
    made = texts(tmp_path)
    (made.run / "looks.json").unlink()
    found = page(made)
    assert found.all("mark") == []
    assert len(found.all("blockquote")) == 5 + 2 * 3


def test_series_are_traces_with_their_channels(tmp_path: Path) -> None:
    found = page(series(tmp_path))
    large = [a for a in found.all("svg") if a.get("class") == "trace" and a["width"] == str(traces.WIDTH)]
    assert len(large) == 4
    text = found.text("mistakes")
    assert all(c in text for c in CHANNELS[:7])
    assert "idle" not in text  # nine channels: the one that never moves is left out
    assert "Of 9 channels the 8 that weighed or moved most." in text
    assert found.source.count("<rect") >= 8
    assert len([a for a in found.all("svg") if a.get("class") == "trace"]) == 4 + 3 * 6


def test_pictures_stand_beside_where_the_model_looked(tmp_path: Path) -> None:
    found = page(sketches(tmp_path))
    shown = [a for a in found.all("img") if a["alt"].startswith("item 190")]
    assert [a["alt"] for a in shown] == ["item 190", "item 190: where it looked"]
    plain, heat = (pixels(a["src"]) for a in shown)
    assert plain.shape == (28, 28)
    assert heat.shape == (192, 192, 3)
    warm = heat[..., 0].astype(int) - heat[..., 2]
    assert warm[: 192 // 2].mean() > 10 * abs(warm[192 // 2 :].mean())


def test_several_views_stand_together(tmp_path: Path) -> None:
    found = page(values(tmp_path, views=2))
    first = [a for a in found.all("img") if a["alt"].startswith("dish 184")]
    assert [a["alt"].partition(": ")[2] for a in first] == ["", "where it looked"] * 2


def test_values_have_units_intervals_and_baselines(tmp_path: Path) -> None:
    made = values(tmp_path)
    found = page(made)
    header, results = found.text(""), found.text("results")
    scores = json.loads((made.run / "metrics.json").read_text())
    mae = scores["metrics"]["weight_mae"]
    assert f"weight, mean absolute error {mae:.4g} g" in header
    assert f"mean value: {scores['baselines'][0]['metrics']['weight_mae']:.4g}" in header
    assert "better than ridge regression on small pixels" in header
    assert "% of the mean" in header
    assert "gain over ridge regression on small pixels" in results
    assert "volume cm³" in results
    assert "Validation volume MAE" in found.text("learning")
    assert "from the smallest weight to the largest" in found.text("data")


def test_values_no_better_than_the_baseline_are_a_serious_finding(tmp_path: Path) -> None:
    found = said_of(values(tmp_path, gain=0.0))
    start = "Not clearly better than ridge regression on small pixels: its gain in weight MAE is"
    assert [serious for text, serious in found.items() if text.startswith(start)] == [True]


def test_unbalanced_classes_show_balanced_accuracy(tmp_path: Path) -> None:
    header = page(sketches(tmp_path)).text("").partition("test items")[0]
    assert "balanced accuracy 0." in header
    assert "macro F1" not in header


def test_elsewhere(tmp_path: Path) -> None:
    made = texts(tmp_path)
    found = page(made)
    assert "another publisher 812 0.512 0.503 0.440 0.520 satire: 31 2026-01-02" in found.text("elsewhere")
    assert "At chance on another publisher: balanced accuracy 0.503 on 812 rows" in found.text("findings")
    serious = [a for a in found.all("li") if a.get("class") == "serious"]
    assert len(serious) == 1
    (made.run / "others.json").unlink()
    assert "elsewhere" not in page(made).texts


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"accuracy": 0.8}, "Worse on abroad"),
        ({"accuracy": 0.95}, ""),
        ({"accuracy": 0.2}, "At chance on abroad"),
        ({}, ""),
    ],
)
def test_how_far_a_score_carries(tmp_path: Path, metrics: dict[str, float], said: str) -> None:
    made = sketches(tmp_path)
    (made.run / "others.json").write_text(json.dumps([{"source": "abroad", "rows": 500, "metrics": metrics}]))
    found = [text for text, serious in said_of(made).items() if "abroad" in text and serious]
    assert [text.partition(":")[0] for text in found] == ([said] if said else [])


def test_values_elsewhere(tmp_path: Path) -> None:
    made = values(tmp_path)
    there = {"weight_mae": 190.0, "weight_r2": -0.4, "volume_mae": 20.0}
    (made.run / "others.json").write_text(json.dumps([{"source": "abroad", "rows": 50, "metrics": there}]))
    assert "On abroad no better than its mean value for “weight” (weight MAE 190 instead of" in page(made).text(
        "findings"
    )


def test_calibration_is_told(tmp_path: Path) -> None:
    text = page(sketches(tmp_path)).text("confidence")
    assert "temperature of 1.42, fitted on the validation split" in text
    assert "would be 0.061, with it 0.018" in text


def test_a_cross_validation_keeps_its_interval_and_gain(tmp_path: Path) -> None:
    made = values(tmp_path)
    scores = json.loads((made.run / "metrics.json").read_text())
    mean = scores["metrics"]
    made.change("metrics.json", folds=[{"fold": 0, "metrics": mean}], mean=mean, std={"weight_mae": 2.5})
    header = page(made).text("")
    assert "± 2.5 over 1 folds" in header
    assert "95 % interval" in header
    assert "better than ridge regression" in header


BROKEN = {
    "looks without an index": ("looks.json", '[{"heat": [[1]]}]'),
    "a heat that is no map": ("looks.json", '[{"index": 1, "heat": [1]}]'),
    "a heat of words": ("looks.json", '[{"index": 1, "heat": [["hot"]]}]'),
    "spans of two": ("looks.json", '[{"index": 1, "text": "a", "spans": [[0, 1]]}]'),
    "looks that are an object": ("looks.json", "{}"),
    "others without rows": ("others.json", '[{"source": "x"}]'),
    "others of words": ("others.json", '["x"]'),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_of_kinds(tmp_path: Path, case: str) -> None:
    made = sketches(tmp_path)
    name, content = BROKEN[case]
    (made.run / name).write_text(content)
    with pytest.raises(CheckFailed) as e:
        material(made.run, made.prepared)
    assert f"{name} is broken" in str(e.value)
    assert "delete it" in e.value.next


def test_texts_whose_offsets_do_not_fit(tmp_path: Path) -> None:
    made = texts(tmp_path)
    np.save(made.prepared / "offset.npy", np.load(made.prepared / "offset.npy") + 1)
    with pytest.raises(CheckFailed):
        material(made.run, made.prepared)


def test_a_baseline_of_another_shape(tmp_path: Path) -> None:
    made = values(tmp_path)
    saved = dict(np.load(made.run / "predictions.npz"))
    np.savez(made.run / "predictions.npz", **{**saved, "baseline": saved["baseline"][:3]})
    with pytest.raises(CheckFailed, match="baseline"):
        material(made.run, made.prepared)


spans = st.lists(st.tuples(st.integers(-5, 900), st.integers(-5, 900), st.floats(-2, 2)), max_size=12)


@given(text=st.text(max_size=900), spans=spans, chars=st.integers(20, 500))
@settings(deadline=None, max_examples=200)
def test_marked_texts_keep_their_words(text: str, spans: list[tuple[int, int, float]], chars: int) -> None:
    pieces = marked(text, tuple(spans), chars)
    whole = "".join(p.text for p in pieces)
    if len(text) <= chars:
        assert whole == text
    for p in pieces:
        assert 0 <= p.strength <= 1
        assert p.text.strip(" …") in text
    assert len(whole) <= max(len(text), chars) + 400 or spans


def test_of_a_long_text_the_heaviest_words_are_shown() -> None:
    words = [f"word{i}" for i in range(400)]
    text = " ".join(words)
    at = {w: (text.index(w + " "), text.index(w + " ") + len(w)) for w in ("word300", "word20")}
    pieces = marked(text, ((*at["word300"], 1.0), (*at["word20"], -0.4)), 300)
    assert [(p.text, p.side) for p in pieces if p.side] == [("word20", "against"), ("word300", "for")]
    assert sum(len(p.text) for p in pieces) < 500
    assert pieces[0].text == "… "


def test_a_quote_ends_with_a_word() -> None:
    assert quotes.quote("one two three", 9) == "one two …"
    assert quotes.quote("one") == "one"


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (1000, 12)])
def test_traces_of_any_size(shape: tuple[int, int]) -> None:
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    x[0, 0] = np.nan
    svg = traces.trace(x, [f"<{c}>" for c in range(shape[1])], np.ones(shape))
    assert svg.count("<path") == min(shape[1], traces.LANES)
    assert "nan" not in svg
    assert "<0>" not in svg
    assert len(svg) < 20_000


def test_heat_of_another_shape_is_left_out() -> None:
    svg = traces.trace(np.zeros((5, 2)), ["a", "b"], np.ones((4, 2)))
    assert "<rect" not in svg


def test_a_heated_picture_keeps_the_pictures_shape() -> None:
    x = np.zeros((30, 90, 3), np.uint8)
    assert (heat := pictures.heated(x, np.eye(4, dtype=np.float32), 180)).width == 180
    assert heat.height == 60
