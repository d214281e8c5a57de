"""Decode, run, encode: the one form of answer, for single inputs and batches."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from bundles import answer, make_bundle
from PIL import Image

from proj import infer
from proj.bundle import ServeSettings
from proj.errors import BundleError, InputTooLarge, UnsupportedInput


def picture(value: int = 128, size: tuple[int, int] = (8, 8)) -> bytes:
    out = io.BytesIO()
    Image.new("L", size, value).save(out, "PNG")
    return out.getvalue()


def test_an_answer_for_classes_is_exactly_this(tmp_path: Path) -> None:
    model = infer.load(make_bundle(tmp_path / "b", names=("cat", "dog"), name="pets", version="1"))
    got = infer.encode(model, np.array([0.25, 0.75], np.float32), "a.png")
    assert got == {
        "input": "a.png",
        "label": "dog",
        "confidence": 0.75,
        "probabilities": {"cat": 0.25, "dog": 0.75},
        "model": "pets@1",
    }
    assert list(got) == ["input", "label", "confidence", "probabilities", "model"]


def test_an_answer_for_values_is_exactly_this(tmp_path: Path) -> None:
    model = infer.load(make_bundle(tmp_path / "b", kind="values", names=("calories", "mass"), units=("kcal", "g")))
    got = infer.encode(model, np.array([512.0, 80.5], np.float32), "a.png")
    assert got == {
        "input": "a.png",
        "values": {"calories": {"value": 512.0, "unit": "kcal"}, "mass": {"value": 80.5, "unit": "g"}},
        "model": "digits@test",
    }


def test_a_model_that_learned_nothing_says_so_in_each_answer(tmp_path: Path) -> None:
    model = infer.load(make_bundle(tmp_path / "b", fast=True, names=("a", "b")))
    assert "--fast" in infer.encode(model, np.array([1, 0], np.float32), "x")["warning"]


@pytest.mark.parametrize(
    ("top", "names"), [(0, ["a", "b", "c", "d"]), (1, ["c"]), (2, ["c", "a"]), (3, ["c", "a", "d"]), (9, list("cadb"))]
)
def test_top_leaves_the_most_probable_best_first(top: int, names: list[str], tmp_path: Path) -> None:
    model = infer.load(make_bundle(tmp_path / "b", names=("a", "b", "c", "d")))
    got = infer.encode(model, np.array([0.25, 0.0625, 0.4375, 0.25], np.float32), "x", top)
    assert list(got["probabilities"]) == names
    assert (got["label"], got["confidence"], got["probabilities"]["c"]) == ("c", 0.4375, 0.4375)


def test_top_changes_nothing_about_values(tmp_path: Path) -> None:
    model = infer.load(make_bundle(tmp_path / "b", kind="values", names=("a", "b"), units=("g", "g")))
    y = np.array([1.5, -2.0], np.float32)
    assert infer.encode(model, y, "x", 1) == infer.encode(model, y, "x")


def test_numbers_are_the_shortest_that_are_the_graphs(tmp_path: Path) -> None:
    model = infer.load(make_bundle(tmp_path / "b", kind="values", names=("a", "b", "c"), units=("g", "g", "g")))
    rows = np.array([[0.1, 1e-9, 123456.789], [1 / 3, -0.0, 3e38]], np.float32)
    for y in (*rows, np.repeat(rows, 2, axis=1)[0, ::2]):  # the last is no contiguous row
        got = [v["value"] for v in infer.encode(model, y, "x")["values"].values()]
        assert [np.float32(v) for v in got] == y.tolist()
        assert [repr(v) for v in got] == [repr(float(str(v))) for v in y]


def test_answers_hold_plain_numbers_only(tmp_path: Path) -> None:
    model = infer.load(make_bundle(tmp_path / "b"))
    got = infer.encode(model, infer.run(model, np.zeros((1, 8, 8, 1), np.uint8))[0], "x")
    assert type(got["confidence"]) is float
    assert {type(p) for p in got["probabilities"].values()} == {float}
    assert sum(got["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_a_graph_that_is_not_the_exported_one_is_refused_though_it_answers_alike(tmp_path: Path) -> None:
    import onnx

    graph = make_bundle(tmp_path / "b") / "model.onnx"
    changed = onnx.load(graph)
    changed.doc_string = "from elsewhere"
    onnx.save(changed, graph)
    with pytest.raises(BundleError, match=r"model\.onnx is not the file that bundle\.json names"):
        infer.load(tmp_path / "b")
    infer.load(tmp_path / "b", checked=True)


def test_a_batch_gives_what_each_alone_gives_and_what_the_graph_says(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b")
    model = infer.load(folder)
    x = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 1), dtype=np.uint8)
    batch = infer.run(model, x)
    assert batch.shape == (300, 10)
    np.testing.assert_allclose(batch, np.concatenate([infer.run(model, row[None]) for row in x]), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(batch, answer(folder / "model.onnx", x))
    assert len({int(row.argmax()) for row in batch}) > 1


def test_a_model_may_be_called_from_several_threads(tmp_path: Path) -> None:
    model = infer.load(make_bundle(tmp_path / "b"), threads=1)
    xs = [np.random.default_rng(i).integers(0, 256, (3, 8, 8, 1), dtype=np.uint8) for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda x: infer.run(model, x), xs))
    for x, y in zip(xs, together, strict=True):
        np.testing.assert_allclose(y, infer.run(model, x), rtol=1e-5, atol=1e-7)


def test_decode_takes_bytes_files_and_arrays_alike(tmp_path: Path) -> None:
    model = infer.load(make_bundle(tmp_path / "b", fit="squash"))
    (tmp_path / "a.png").write_bytes(picture(200))
    pixels = np.full((8, 8, 1), 200, np.uint8)
    for source in (picture(200), tmp_path / "a.png", pixels, pixels[..., 0]):
        np.testing.assert_array_equal(infer.decode(model, source), pixels)


def test_the_bundles_limit_on_pixels_holds_unless_another_is_given(tmp_path: Path) -> None:
    model = infer.load(make_bundle(tmp_path / "b", fit="squash", serve=ServeSettings(max_pixels=100)))
    with pytest.raises(InputTooLarge):
        infer.decode(model, picture(size=(20, 20)))
    assert infer.decode(model, picture(size=(20, 20)), max_pixels=400).shape == (8, 8, 1)


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedInput):
        infer.decode(infer.load(make_bundle(tmp_path / "b")), b"hello")
