"""ONNX Runtime and OpenVINO behind one form: the same answers, for every modality, batch and thread."""

from __future__ import annotations

import base64
import io
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import answer, make_bundle, make_series_bundle, make_text_bundle
from loguru import logger
from PIL import Image

from proj import engines, infer
from proj.bundle import Sample
from proj.errors import BundleError, MissingExtra, UsageError

BF16 = pytest.mark.skipif(not engines.has_bf16(), reason="NO BF16: this CPU has none")
MAKE: dict[str, Callable[[Path], Path]] = {
    "image": lambda folder: make_bundle(folder, names=("a", "b", "c")),
    "text": lambda folder: make_text_bundle(folder),
    "series": lambda folder: make_series_bundle(folder),
}


@pytest.fixture
def said() -> Iterator[list[str]]:
    """The log's messages."""
    messages: list[str] = []
    sink = logger.add(lambda m: messages.append(m.record["message"]), level="INFO")
    yield messages
    logger.remove(sink)


def sample() -> Sample:
    """A picture in two halves."""
    file = io.BytesIO()
    Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 4, axis=1).repeat(8, 0)).save(file, "PNG")
    return Sample(name="halves", body={"image": base64.b64encode(file.getvalue()).decode()})


def inputs(modality: str, rows: int) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(rows)
    if modality == "image":
        return rng.integers(0, 256, (rows, 8, 8, 1), dtype=np.uint8)
    if modality == "text":
        return rng.integers(1, 500, (rows, 3 + rows), dtype=np.int32)
    return rng.normal(0, 5, (rows, 15, 6)).astype(np.float32)


@pytest.mark.parametrize("modality", MAKE)
def test_openvino_says_what_onnx_runtime_says(modality: str, tmp_path: Path, said: list[str]) -> None:
    folder = MAKE[modality](tmp_path / "b")
    model = infer.load(folder, engine="openvino")
    assert (model.engine.name, model.engine.best_batch) == ("openvino fp32", 1)
    assert any("openvino fp32 agrees with ONNX Runtime on" in line for line in said)
    for rows in (1, 2, 5, 9):
        x = inputs(modality, rows)
        x.flags.writeable = False  # a tensor that came in a request's body is
        want = answer(folder / "model.onnx", x)
        for form in (x, np.asfortranarray(x)):
            np.testing.assert_allclose(infer.run(model, form), want, rtol=1e-4, atol=1e-6)


def test_onnx_runtime_is_what_runs_unless_another_is_chosen(tmp_path: Path) -> None:
    model = infer.load(make_bundle(tmp_path / "b"))
    assert (model.engine.name, model.engine.best_batch) == ("onnxruntime fp32", 2)


def test_inputs_of_many_lengths_make_no_batch(tmp_path: Path) -> None:
    assert infer.load(make_text_bundle(tmp_path / "b")).engine.best_batch == 1


@pytest.mark.parametrize(
    ("waiting", "threads", "told", "want"),
    [(0, 2, 0, 1), (7, 2, 0, 1), (8, 2, 0, 2), (60, 2, 0, 2), (60, 2, 1, 1), (60, 2, 8, 8), (8, 2, 8, 5), (3, 1, 0, 1)],
)
def test_a_call_takes_its_share_of_many_that_wait(
    tmp_path: Path, waiting: int, threads: int, told: int, want: int
) -> None:
    assert infer.load(make_bundle(tmp_path / "b")).share(waiting, threads, told) == want


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_answers_do_not_mix_where_threads_call_at_once(engine: engines.Name, tmp_path: Path) -> None:
    model = infer.load(make_bundle(tmp_path / "b", names=("a", "b", "c"), work=3), engine=engine)
    xs = [inputs("image", 1 + i % 3) + np.uint8(i) for i in range(60)]
    alone = [infer.run(model, x) for x in xs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for y, want in zip(pool.map(lambda x: infer.run(model, x), xs), alone, strict=True):
                np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("callers", [1, 2])
def test_each_caller_has_a_compiled_graph_of_its_own(
    callers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that two threads share answers one of them at a time."""
    model = infer.load(make_bundle(tmp_path / "b", names=("a", "b", "c")), engine="openvino", callers=callers)
    used: dict[int, set[int]] = {}
    run = engines._Copy.run

    def noted(copy: engines._Copy, x: engines.Array) -> engines.Array:
        used.setdefault(threading.get_ident(), set()).add(id(copy))
        return run(copy, x)

    monkeypatch.setattr(engines._Copy, "run", noted)
    both = threading.Barrier(2, timeout=30)

    def ask(_: int) -> None:
        both.wait()
        for _ in range(5):
            infer.run(model, inputs("image", 1))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(ask, range(2)))
    assert [len(copies) for copies in used.values()] == [1, 1]
    assert len(set.union(*used.values())) == callers


@BF16
@pytest.mark.parametrize("kind", ["classes", "values"])
def test_bf16_is_near(kind: Any, tmp_path: Path, said: list[str]) -> None:
    units = ("g", "g") if kind == "values" else ()
    folder = make_bundle(tmp_path / "b", kind=kind, names=("a", "b"), units=units, seed=1)
    model = infer.load(folder, engine="openvino", precision="bf16")
    assert model.engine.name == "openvino bf16"
    assert any("openvino bf16 agrees" in line for line in said)
    x = inputs("image", 64)
    want = answer(folder / "model.onnx", x)
    off = np.abs(infer.run(model, x) - want).max()
    assert 0 < off < 0.05  # and is no fp32


@BF16
def test_a_batch_is_filled_up_where_batches_gain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_bundle(tmp_path / "b", names=("a", "b", "c"))
    monkeypatch.setattr(engines, "has_cpu", lambda _: True)
    model = infer.load(folder, engine="openvino", precision="bf16")
    assert model.engine.best_batch == 8
    x = inputs("image", 21)
    each = np.concatenate([infer.run(model, row[None]) for row in x])
    assert len(set(each.argmax(1).tolist())) > 1
    for rows in (1, 2, 3, 4, 5, 7, 8, 9, 16, 21):
        np.testing.assert_allclose(infer.run(model, x[:rows]), each[:rows], atol=5e-3)


def test_answers_that_do_not_agree_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_bundle(tmp_path / "b", names=("a", "b", "c"), fit="squash", samples=(sample(),))
    honest = engines.OpenVino.run
    example = infer.bundle.read(folder).example.array()

    def wrong(self: engines.OpenVino, x: engines.Array) -> engines.Array:
        y = honest(self, x)
        return y if (x == example).all() else y[:, ::-1]  # wrong on the sample alone

    monkeypatch.setattr(engines.OpenVino, "run", wrong)
    with pytest.raises(BundleError, match="does not give ONNX Runtime's answers") as caught:
        infer.load(folder, engine="openvino")
    assert "they differ by up to" in caught.value.found
    assert caught.value.next == "choose engine=onnxruntime"


ROWS = np.array([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7]], np.float32)


@pytest.mark.parametrize(
    ("kind", "precision", "off", "why"),
    [
        ("classes", "fp32", [[5e-4, 0, 0], [0, 0, 0]], ""),
        ("classes", "fp32", [[2e-3, 0, 0], [0, 0, 0]], "they differ by up to 2.00e-03"),
        ("classes", "bf16", [[-0.04, 0.04, 0], [0, 0, 0]], ""),
        ("classes", "bf16", [[-0.06, 0.06, 0], [0, 0, 0]], "a probability is off by 0.060, 0.05 is allowed"),
        ("classes", "bf16", [[0, 0, 0], [0, 0.6, -0.6]], "1 of 2 labels are others"),
        ("classes", "bf16", [[np.nan, 0, 0], [0, 0, 0]], "it gives numbers that are none"),
        ("values", "bf16", [[0.01, 0, 0], [0, 0, 0]], ""),
        ("values", "bf16", [[0, 0, 0], [0.01, 0, 0]], ""),  # a sixtieth of the name's largest
        ("values", "bf16", [[0, 0, 0], [0.02, 0, 0]], "a value is off by 3.3%, 2% is allowed"),
    ],
)
def test_how_far_apart_answers_may_be(kind: Any, precision: Any, off: Any, why: str) -> None:
    assert infer.apart(kind, ROWS + np.array(off, np.float32), ROWS, precision) == why


def test_what_cannot_be_had_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_bundle(tmp_path / "b")
    with pytest.raises(UsageError, match="engine=openvino"):
        infer.load(folder, precision="bf16")
    monkeypatch.setattr(engines, "has_cpu", lambda _: False)
    with pytest.raises(UsageError, match=r"no bf16.*precision=fp32"):
        infer.load(folder, engine="openvino", precision="bf16")
    monkeypatch.setattr(engines, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match="uv sync --extra openvino"):
        infer.load(folder, engine="openvino")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_graph_that_is_none_is_refused(engine: engines.Name, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph at all")
    with pytest.raises(BundleError, match="cannot be loaded"):
        engines.make(tmp_path / "model.onnx", engine=engine)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_graph_with_other_names_is_refused(engine: engines.Name, tmp_path: Path) -> None:
    import onnx

    graph = onnx.load(str(make_bundle(tmp_path / "b") / "model.onnx"))
    graph.graph.output[0].name = "z"
    graph.graph.node[-1].output[0] = "z"
    onnx.save(graph, str(tmp_path / "z.onnx"))
    with pytest.raises(BundleError, match="other inputs and outputs"):
        engines.make(tmp_path / "z.onnx", engine=engine)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_model_outlives_its_folder(engine: engines.Name, tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b")
    x = inputs("image", 3)
    want = answer(folder / "model.onnx", x)
    model = infer.load(folder, engine=engine)
    shutil.rmtree(folder)
    np.testing.assert_allclose(infer.run(model, x), want, rtol=1e-4, atol=1e-6)


def test_an_engine_that_fails_on_the_graph_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> engines.Array:
        raise RuntimeError("Exception from src/x.cpp:1:\nno such operation")

    monkeypatch.setattr(engines.OpenVino, "run", fail)
    with pytest.raises(BundleError, match=r"does not give ONNX Runtime's answers.*no such operation"):
        infer.load(make_bundle(tmp_path / "b"), engine="openvino")


def test_a_sample_that_is_no_input_is_the_bundles_fault(tmp_path: Path) -> None:
    bad = Sample(name="bad", body={"image": "###"})
    folder = make_bundle(tmp_path / "b", samples=(bad,))
    with pytest.raises(BundleError, match=r"a sample in bundle\.json cannot be read"):
        infer.load(folder, engine="openvino")
