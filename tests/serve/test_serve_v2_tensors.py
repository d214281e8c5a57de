"""Tensors of the Open Inference Protocol: whatever comes is read or refused, and both forms say the same."""

from __future__ import annotations

import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import make_bundle
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from tritonclient.http import InferInput, InferRequestedOutput
from tritonclient.http._utils import _get_inference_request

from proj import bundle
from proj.errors import BadRequest, InputError, InputTooLarge
from proj.preprocess.spec import ImageSpec, SeriesSpec, TextSpec
from proj.serve import v2_tensors
from proj.serve.v2_tensors import Asked, Form, form, read, write

IMAGE = form(ImageSpec(height_px=2, width_px=3, channels=1))
TEXT = form(TextSpec(encoding="hash", max_tokens=5, buckets=99))
SERIES = form(SeriesSpec(steps=2, channels=("a", "b")))
FORMS = {"UINT8": IMAGE, "INT32": TEXT, "FP32": SERIES}
MOST = 4


def body(**changes: Any) -> dict[str, Any]:
    """A request of one picture."""
    tensor = {"name": "x", "shape": [1, 2, 3, 1], "datatype": "UINT8", "data": [1, 2, 3, 4, 5, 6], **changes}
    return {"inputs": [{k: v for k, v in tensor.items() if v is not ...}]}


def ask(request: Any, tail: bytes = b"", wanted: Form = IMAGE) -> Asked:
    raw = json.dumps(request).encode()
    return read(raw + tail, len(raw) if tail else None, wanted, MOST)


def arrays(wanted: Form) -> st.SearchStrategy[Any]:
    """Batches that the graph takes."""
    rows = st.integers(1, MOST)
    if wanted is TEXT:
        shapes = st.tuples(rows, st.integers(1, wanted.most))
        return shapes.flatmap(lambda s: st_numpy.arrays(np.int32, s, elements=st.integers(1, wanted.ids - 1)))
    dtype = {"UINT8": np.uint8, "FP32": np.float32}[wanted.datatype]
    finite = {"allow_nan": False, "allow_infinity": False} if dtype is np.float32 else {}
    return rows.flatmap(lambda n: st_numpy.arrays(dtype, (n, *wanted.dims), elements=finite or None))


@given(st.data(), st.sampled_from(list(FORMS)))
@settings(max_examples=80, deadline=None)
def test_what_tritons_client_writes_is_read_as_it_was_in_either_form(data: st.DataObject, kind: str) -> None:
    x = data.draw(arrays(FORMS[kind]))
    got = []
    for binary in (False, True):
        tensor = InferInput("x", list(x.shape), kind).set_data_from_numpy(x, binary_data=binary)
        raw, length = _get_inference_request([tensor], "7", None, 0, False, False, 0, 2_500_000, None)
        asked = read(raw, length, FORMS[kind], MOST)
        assert (asked.id, asked.binary, asked.classes, asked.timeout_s) == ("7", True, 0, 2.5)
        got.append(asked.x)
    nested = ask(
        {"inputs": [{"name": "x", "shape": x.shape, "datatype": kind, "data": x.tolist()}]}, wanted=FORMS[kind]
    )
    got.append(nested.x)
    for read_x in got:
        assert read_x.dtype == x.dtype
        assert read_x.flags.aligned
        np.testing.assert_array_equal(read_x, x)


def test_binary_tensors_are_read_in_place() -> None:
    raw = json.dumps(body(data=..., parameters={"binary_data_size": 6})).encode()
    whole = raw + bytes(range(6))
    x = read(whole, len(raw), IMAGE, MOST).x
    assert np.shares_memory(x, np.frombuffer(whole, np.uint8))


def test_a_body_of_bytes_alone_is_one_tensor() -> None:
    np.testing.assert_array_equal(read(bytes(range(12)), 0, IMAGE, MOST).x.ravel(), np.arange(12))
    assert read(np.array([3, 9], "<i4").tobytes(), 0, TEXT, MOST).x.tolist() == [[3, 9]]
    for raw in (b"", b"12345", bytes(6 * (MOST + 1))):
        with pytest.raises(InputError):
            read(raw, 0, IMAGE, MOST)


def test_wider_ids_are_taken_where_they_fit() -> None:
    tensor = {"name": "x", "shape": [1, 2], "datatype": "INT64"}
    assert ask({"inputs": [{**tensor, "data": [1, 99]}]}, wanted=TEXT).x.dtype == np.int32
    raw = np.array([1, 99], "<i8").tobytes()
    assert ask({"inputs": [{**tensor, "parameters": {"binary_data_size": 16}}]}, raw, TEXT).x.tolist() == [[1, 99]]
    for ids in ([1, 100], [1, -1], [1, 2**31], [1, 2**63], [1, 2**70], [0, 0]):
        with pytest.raises(InputError):
            ask({"inputs": [{**tensor, "data": ids}]}, wanted=TEXT)
    with pytest.raises(InputError, match="the model takes UINT8"):
        ask(body(datatype="INT64"))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ([], "not an object"),
        ({}, "'inputs'"),
        ({"inputs": []}, "'inputs'"),
        ({"inputs": [1]}, "not an object"),
        (body(name="image"), "one input, 'x'.*'image'"),
        ({"inputs": body()["inputs"] * 2}, "more than once"),
        (body(datatype="FP32"), "takes UINT8"),
        (body(datatype=["UINT8"]), "takes UINT8"),
        (body(shape=...), "'shape'"),
        (body(shape=[1, 2, 3]), r"takes \[-1, 2, 3, 1\]"),
        (body(shape=[1, 3, 2, 1]), "takes"),
        (body(shape=[0, 2, 3, 1]), "takes"),
        (body(shape=[True, 2, 3, 1]), "whole numbers"),
        (body(shape=[1.0, 2, 3, 1]), "whole numbers"),
        (body(shape=[-1, 2, 3, 1]), "whole numbers"),
        (body(shape=[2, 2, 3, 1]), "has 6 items"),
        (body(data=...), "'data'"),
        (body(data="123456"), "'data'"),
        (body(data=[1, 2, 3, 4, 5]), "has 5 items"),
        (body(data=[1, 2, 3, 4, 5, 256]), "no UINT8"),
        (body(data=[1, 2, 3, 4, 5, -1]), "no UINT8"),
        (body(data=[1, 2, 3, 4, 5, 6.5]), "float"),
        (body(data=[1, 2, 3, 4, 5, "6"]), "str"),
        (body(data=[1, 2, 3, 4, 5, None]), "NoneType"),
        (body(data=[1, 2, 3, 4, 5, [6]]), "list"),
        (body(data=[[1, 2, 3], [4, 5, 6]]), "has 2 items"),
        (body(data=[[[1, 2, 3], [4, 5, 6]]]), "nested"),
        (body(data=[1, 2, 3, 4, 5, True]), "bool"),
        (body(data=[1, 2, 3, 4, 5, 2**64]), "float|no UINT8"),
        (body(data=[[[1, 2, 3], [4, 5, 6, 7]]]), "nested"),
        (body(parameters={"binary_data_size": 6}), "both"),
        (body(data=..., parameters={"binary_data_size": 6}), "not right"),
        (body(data=..., parameters={"shared_memory_region": "a"}), "shared memory"),
        (body(parameters=3), "'parameters'"),
        ({**body(), "id": 3}, "'id'"),
        ({**body(), "id": "x" * 2000}, "'id'"),
        ({**body(), "parameters": []}, "'parameters'"),
        ({**body(), "parameters": {"timeout": -1}}, "'timeout'"),
        ({**body(), "parameters": {"timeout": 1.5}}, "'timeout'"),
        ({**body(), "parameters": {"binary_data_output": 1}}, "'binary_data_output'"),
        ({**body(), "outputs": {}}, "'outputs'"),
        ({**body(), "outputs": [{"name": "z"}]}, "one output, 'y'"),
        ({**body(), "outputs": [{"name": "y"}, {"name": "y"}]}, "one output"),
        ({**body(), "outputs": [{"name": "y", "parameters": {"classification": -1}}]}, "'classification'"),
        ({**body(), "outputs": [{"name": "y", "parameters": {"binary_data": "no"}}]}, "'binary_data'"),
        ({**body(), "outputs": [{"name": "y", "parameters": {"shared_memory_region": "a"}}]}, "shared memory"),
    ],
)
def test_a_request_that_does_not_fit_is_told_why(request_: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ask(request_)


def test_numbers_that_are_none_are_refused_in_either_form() -> None:
    tensor = {"name": "x", "shape": [1, 2, 2], "datatype": "FP32"}
    for value in (math.nan, math.inf):
        raw = np.array([1, 2, 3, value], "<f4").tobytes()
        with pytest.raises(InputError, match="finite"):
            ask({"inputs": [{**tensor, "parameters": {"binary_data_size": 16}}]}, raw, SERIES)
    with pytest.raises(InputError, match="finite"):
        ask({"inputs": [{**tensor, "data": [1, 2, 3, 1e39]}]}, wanted=SERIES)
    with pytest.raises(BadRequest, match="not JSON"):
        read(
            b'{"inputs": [{"name": "x", "shape": [1, 2, 2], "datatype": "FP32", "data": [1, 2, 3, NaN]}]}',
            None,
            SERIES,
            1,
        )


def test_one_long_text_among_numbers_costs_no_memory() -> None:
    wanted = form(ImageSpec(height_px=100, width_px=100, channels=1))
    for shape, data in (([1, 100, 100, 1], ["x" * 10**6] + [1] * 9999), ([1, 100, 100, 1], [[["x" * 10**6]]])):
        tracemalloc.start()
        with pytest.raises(InputError):
            ask(body(shape=shape, data=data), wanted=wanted)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 20e6


def test_unknown_parameters_and_members_are_passed_over() -> None:
    request = body(parameters={"content_type": "np", "future": {}}, comment="mine")
    asked = ask({**request, "parameters": {"priority": 1, "mine": "x"}, "more": None, "outputs": []})
    assert asked.x.ravel().tolist() == [1, 2, 3, 4, 5, 6]
    assert not asked.binary


def test_a_batch_has_a_limit() -> None:
    with pytest.raises(InputTooLarge, match="the limit is 4"):
        ask(body(shape=[5, 2, 3, 1], data=[0] * 30))
    with pytest.raises(InputTooLarge):  # whose product no integer of 64 bits holds
        ask(body(shape=[2**62, 2, 3, 1]))


Json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
NAMES = ["name", "shape", "datatype", "parameters", "data"]


def survives(raw: bytes, length: int | None) -> None:
    """It is read as the graph takes it, or refused by an InputError, whose kinds all have a status of 4xx."""
    for wanted in FORMS.values():
        try:
            asked = read(raw, length, wanted, MOST)
        except InputError:
            continue
        x = asked.x
        assert x.dtype == v2_tensors.DTYPES[wanted.datatype]
        assert x.ndim == 1 + len(wanted.dims)
        assert 1 <= len(x) <= MOST


@given(st.binary(max_size=300), st.none() | st.integers(0, 400))
@settings(max_examples=200, deadline=None)
@example(b"[" * 100_000, None)
@example(b'{"inputs":' * 2000, None)
@example(b'"\xff"', None)
@example(b'"\\ud800"', 8)
def test_no_bytes_are_a_fault(raw: bytes, length: int | None) -> None:
    survives(raw, length)


@given(st.data(), st.binary(max_size=40))
@settings(max_examples=150, deadline=None)
def test_no_json_is_a_fault(data: st.DataObject, tail: bytes) -> None:
    wanted = data.draw(st.sampled_from(list(FORMS.values())))
    x = data.draw(arrays(wanted))
    tensor: dict[str, Any] = {"name": "x", "shape": list(x.shape), "datatype": wanted.datatype, "data": x.tolist()}
    if data.draw(st.booleans()):
        del tensor["data"]
        tensor["parameters"] = {"binary_data_size": data.draw(st.sampled_from([len(tail), x.nbytes, -1, 2**64]))}
    for name in data.draw(st.lists(st.sampled_from(NAMES), max_size=2)):
        tensor[name] = data.draw(Json)
    request: dict[str, Any] = {"inputs": [tensor]}
    for name in data.draw(st.lists(st.sampled_from(["inputs", "outputs", "id", "parameters"]), max_size=2)):
        request[name] = data.draw(Json)
    raw = json.dumps(request).encode()
    survives(raw + tail, data.draw(st.sampled_from([None, len(raw), len(raw) + 1])))


def test_answers_are_the_same_numbers_in_either_form(tmp_path: Path) -> None:
    manifest = bundle.read(make_bundle(tmp_path / "digits"))
    y = np.random.default_rng(0).random((3, 10), dtype=np.float32)
    x = np.zeros((3, 8, 8, 1), np.uint8)
    plain, none = write(Asked(x, "7"), "digits", manifest, y)
    assert none is None
    answer = json.loads(plain)
    assert answer["id"] == "7"
    assert (answer["model_name"], answer["model_version"]) == ("digits", "test")
    assert "parameters" not in answer
    (output,) = answer["outputs"]
    np.testing.assert_array_equal(np.array(output["data"], np.float32).reshape(output["shape"]), y)
    raw, length = write(Asked(x, binary=True), "digits", manifest, y)
    assert "id" not in json.loads(raw[:length])
    assert json.loads(raw[:length])["outputs"][0]["parameters"] == {"binary_data_size": 120}
    np.testing.assert_array_equal(np.frombuffer(raw[length:], "<f4").reshape(3, 10), y)


def test_classes_come_best_first_as_triton_writes_them(tmp_path: Path) -> None:
    manifest = bundle.read(make_bundle(tmp_path / "digits", fast=True))
    y = np.array([[0.0, 0.25, 0.5, 0.25, 0, 0, 0, 0, 0, 0]], np.float32)
    answer = json.loads(write(Asked(y, classes=3), "digits", manifest, y)[0])
    assert answer["outputs"] == [
        {"name": "y", "datatype": "BYTES", "shape": [1, 3], "data": ["0.500000:2:2", "0.250000:1:1", "0.250000:3:3"]}
    ]
    assert "one batch" in answer["parameters"]["warning"]
    assert json.loads(write(Asked(y, classes=99), "digits", manifest, y)[0])["outputs"][0]["shape"] == [1, 10]


def test_an_answer_that_is_no_number_is_none_and_values_have_no_classes(tmp_path: Path) -> None:
    manifest = bundle.read(make_bundle(tmp_path / "food", kind="values", names=("mass",)))
    with pytest.raises(InputError, match="no finite number"):
        write(Asked(np.zeros(1)), "food", manifest, np.array([[np.nan]], np.float32))
    with pytest.raises(InputError, match="no classes"):
        write(Asked(np.zeros(1), classes=1), "food", manifest, np.array([[1.0]], np.float32))


def test_asked_outputs_are_read_as_tritons_client_writes_them() -> None:
    for binary, classes in ((True, 0), (False, 0), (False, 3)):
        wanted = [InferRequestedOutput("y", binary_data=binary, class_count=classes)]
        tensor = InferInput("x", [1, 2, 3, 1], "UINT8").set_data_from_numpy(np.zeros((1, 2, 3, 1), np.uint8))
        raw, length = _get_inference_request([tensor], "", wanted, 0, False, False, 0, None, None)
        asked = read(raw, length, IMAGE, MOST)
        assert (asked.binary, asked.classes, asked.id) == (binary, classes, None)
