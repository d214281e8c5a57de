"""Bundles that are read, and everything that is refused before a graph could do harm."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from bundles import make_bundle, make_text_bundle, save_graph
from commands import call, contents
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from proj import bundle, infer
from proj.bundle import ServeSettings
from proj.errors import BundleError


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle")


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b", serve=ServeSettings(max_batch=3), fast=True)
    manifest = bundle.read(folder)
    bundle.write(folder, manifest)
    assert bundle.read(folder) == manifest
    assert manifest.model == "digits@test"
    assert manifest.serve.max_batch == 3
    assert sorted(p.name for p in folder.iterdir()) == ["bundle.json", "model.onnx"]
    assert infer.load(folder).manifest == manifest


@pytest.mark.parametrize(
    ("synthetic", "fast", "says"),
    [
        (False, False, []),
        (True, False, ["synthetic"]),
        (False, True, ["--fast"]),
        (True, True, ["synthetic", "--fast"]),
    ],
)
def test_a_model_that_learned_nothing_warns(tmp_path: Path, synthetic: bool, fast: bool, says: list[str]) -> None:
    warning = bundle.read(make_bundle(tmp_path / "b", synthetic=synthetic, fast=fast)).warning
    assert (warning is None) == (not says)
    assert all(word in (warning or "") for word in says)


# bundle.json


def set_(**values: Any) -> Callable[[Path], None]:
    return edit(lambda raw: raw.update(values))


def edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        raw = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
        change(raw)
        (folder / "bundle.json").write_text(json.dumps(raw), encoding="utf-8")

    return apply


def put(content: bytes, name: str = "bundle.json") -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def folder_for(name: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return apply


def sparse(folder: Path) -> None:
    with (folder / "bundle.json").open("wb") as f:
        f.truncate(bundle.MAX_MANIFEST_BYTES + 1)


BAD_MANIFESTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no bundle.json": (lambda f: (f / "bundle.json").unlink(), "it lacks bundle.json"),
    "no model.onnx": (lambda f: (f / "model.onnx").unlink(), "it lacks model.onnx"),
    "a folder for bundle.json": (folder_for("bundle.json"), "it lacks bundle.json"),
    "a folder for model.onnx": (folder_for("model.onnx"), "it lacks model.onnx"),
    "empty": (put(b""), "not JSON"),
    "not JSON": (put(b"{"), "not JSON"),
    "not UTF-8": (put(b"\xff\xfe{}"), "not JSON"),
    "huge": (sparse, "over 16 MiB"),
    "nested deep": (put(b"[" * 200_000), "not JSON"),
    "a number too long": (put(b'{"schema_version": ' + b"9" * 5000 + b"}"), "not JSON"),
    "a list": (put(b"[]"), "schema version None"),
    "no schema": (edit(lambda r: r.pop("schema_version")), "schema version None"),
    "schema 0": (set_(schema_version=0), "schema version 0"),
    "schema 99": (set_(schema_version=99), "this proj reads"),
    "schema as text": (set_(schema_version="1"), "schema version '1'"),
    "schema true": (set_(schema_version=True), "schema version True"),
    "schema 1.0": (set_(schema_version=1.0), "schema version 1.0"),
    "unknown field": (set_(code="import os"), "code"),
    "no name": (edit(lambda r: r.pop("name")), "name"),
    "name is null": (set_(name=None), "name"),
    "no names": (set_(names=[]), "names"),
    "one name too few": (edit(lambda r: r["names"].pop()), "10 numbers for 9 names"),
    "a doubled name": (edit(lambda r: r["names"].__setitem__(1, "0")), "twice"),
    "values without units": (set_(kind="values"), "0 units for 10 targets"),
    "another kind": (set_(kind="boxes"), "kind"),
    "another modality": (set_(modality="smell"), "modality"),
    "no example": (edit(lambda r: r.pop("example")), "example"),
    "example not base64": (edit(lambda r: r["example"].update(x_base64="???")), "example"),
    "example too short": (edit(lambda r: r["example"].update(x_base64="AAAA")), "the example's numbers"),
    "example of another shape": (edit(lambda r: r["example"].update(shape=[8, 8, 3])), "shape"),
    "example of a huge shape": (edit(lambda r: r["example"].update(shape=[10**9, 10**9, 10**9])), "shape"),
    "example with another answer": (edit(lambda r: r["example"].update(y=[0.1] * 10)), "its own example's answer"),
    "example with nan": (edit(lambda r: r["example"].update(y=[float("nan")] * 10)), "example"),
    "preprocess unknown": (edit(lambda r: r["preprocess"].update(code="x")), "preprocess"),
    "preprocess other size": (edit(lambda r: r["preprocess"].update(height_px=9)), "shape"),
    "preprocess text": (edit(lambda r: r["preprocess"].update(height_px="8")), "preprocess"),
    "preprocess unknown fit": (edit(lambda r: r["preprocess"].update(fit="magic")), "preprocess"),
    "preprocess a list": (set_(preprocess=[]), "preprocess"),
    "serve setting unknown": (set_(serve={"run": "sh"}), "serve.run"),
    "serve setting of a wrong type": (set_(serve={"max_batch": "many"}), "serve.max_batch"),
    "metrics as text": (set_(metrics="good"), "metrics"),
}  # fmt: skip


def refused(folder: Path) -> BundleError:
    before = contents(folder)
    with pytest.raises(BundleError) as raised:
        infer.load(folder)
    assert raised.value.exit_code == 1
    assert contents(folder) == before
    return raised.value


@pytest.mark.parametrize(("harm", "why"), BAD_MANIFESTS.values(), ids=BAD_MANIFESTS)
def test_a_bad_manifest_is_refused(good: Path, harm: Callable[[Path], None], why: str) -> None:
    harm(good)
    error = refused(good)
    assert why in str(error)
    assert str(good) in str(error)


def test_a_bundle_that_is_not_there(tmp_path: Path) -> None:
    assert "it lacks bundle.json and model.onnx" in str(refused(tmp_path / "none"))


@pytest.mark.parametrize(("ours", "read"), [(1, {1}), (2, {1, 2}), (3, {1, 2, 3}), (4, {2, 3, 4}), (5, {3, 4, 5})])
def test_the_two_schemas_before_ours_are_read(
    good: Path, monkeypatch: pytest.MonkeyPatch, ours: int, read: set[int]
) -> None:
    monkeypatch.setattr(bundle, "SCHEMA", ours)
    monkeypatch.setattr(bundle, "OLDEST_READABLE", bundle.oldest_readable(ours))
    accepted = set()
    for version in range(7):
        set_(schema_version=version)(good)
        with contextlib.suppress(BundleError):
            assert bundle.read(good).schema_version == ours
            accepted.add(version)
    assert accepted == read
    assert bundle.oldest_readable(ours) == min(read)


def _old(version: int) -> dict[str, Any]:
    """A bundle.json as schemas 1 and 2 wrote it, word for word: it stays as it is when ours goes on."""
    example = {"x_base64": "AAECAw==", "shape": [2, 2, 1], "y": [0.5, 0.5]}
    raw: dict[str, Any] = {
        "schema_version": version, "name": "digits", "version": "20260301-101500-ab12", "title": "Digits",
        "question": "Which digit is this?", "modality": "image", "kind": "classes", "page_input": "sketch",
        "names": ["0", "1"], "units": [], "data_hash": "0123456789abcdef",
        "preprocess": {"height_px": 2, "width_px": 2, "channels": 1, "fit": "ink", "ink_px": 2},
        "metrics": {"accuracy": 0.98}, "split": "test", "backbone": "test_resnet",
        "created": "2026-03-01T10:15:00+00:00", "synthetic": False, "fast": False, "example": example,
        "serve": {"max_upload_mb": 20.0, "max_pixels": 64000000, "max_inputs": 64, "queue_size": 256, "max_batch": 8},
    }  # fmt: skip
    if version == 2:
        raw["example"] = {**example, "dtype": "uint8"}
        raw["samples"] = [{"name": "One", "body": {"image_base64": "AAAA"}}]
        raw["serve"] = {**raw["serve"], "threshold": 0.25}
        raw["preprocess"] = {**raw["preprocess"], "stroke_px": 0.0, "views": 1}
    return raw


@pytest.mark.parametrize("version", [1, 2])
def test_bundles_of_earlier_versions_are_read_checked_and_answer(tmp_path: Path, version: int) -> None:
    save_graph(tmp_path / "model.onnx", (2, 2, 1), 2, flat=True)
    (tmp_path / "bundle.json").write_text(json.dumps(_old(version), indent=1) + "\n", encoding="utf-8")
    manifest = bundle.verify(tmp_path)
    assert (manifest.model, manifest.files, manifest.schema_version) == ("digits@20260301-101500-ab12", {}, 3)
    assert (len(manifest.samples), manifest.serve.threshold) == ((0, 0.0) if version == 1 else (1, 0.25))
    model = infer.load(tmp_path)
    assert infer.run(model, model.manifest.example.array()).tolist() == [[0.5, 0.5]]
    bundle.write(tmp_path, manifest)  # and what is written is ours
    assert json.loads((tmp_path / "bundle.json").read_text(encoding="utf-8"))["schema_version"] == bundle.SCHEMA == 3


# files


def test_each_file_has_its_hash(tmp_path: Path) -> None:
    folder = make_text_bundle(tmp_path / "b", encoding="tokenizer")
    files = bundle.verify(folder).files
    assert files == {n: sha256((folder / n).read_bytes()).hexdigest() for n in ("model.onnx", "tokenizer.json")}


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_a_file_of_another_export_is_named(tmp_path: Path, name: str) -> None:
    folder = make_text_bundle(tmp_path / "b", encoding="tokenizer")
    with (folder / name).open("ab") as f:
        f.write(b" ")
    assert bundle.read(folder)  # only `verify` looks at what is in them
    with pytest.raises(BundleError, match=f"{name} is not the file that bundle.json names; SHA-256 .*, expected"):
        bundle.verify(folder)


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({}, "no hash of model.onnx"),
        ({"model.onnx": "0" * 63}, "files.model.onnx"),
        ({"model.onnx": "A" * 64}, "files.model.onnx"),
        ({"model.onnx": "0" * 64, "../x": "0" * 64}, "files"),
        (None, "files"),
        ([], "files"),
    ],
)
def test_a_manifest_of_ours_without_its_hashes_is_refused(good: Path, files: object, why: str) -> None:
    set_(files=files)(good)
    with pytest.raises(BundleError, match=why):
        bundle.read(good)


def test_a_text_needs_the_hash_of_its_tokenizer(tmp_path: Path) -> None:
    folder = make_text_bundle(tmp_path / "b", encoding="tokenizer")
    edit(lambda raw: raw["files"].pop("tokenizer.json"))(folder)
    with pytest.raises(BundleError, match=r"no hash of tokenizer\.json"):
        bundle.read(folder)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bytes_in_bundle_json_are_read_or_refused(good: Path, data: st.DataObject) -> None:
    path = good / "bundle.json"
    original = make_bundle(good.parent / "whole") / "bundle.json"
    content = bytearray(original.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        content[at : at + data.draw(st.integers(0, 40))] = data.draw(
            st.one_of(st.binary(max_size=6), st.sampled_from([b"null", b"1e999", b'"', b"}", b"[]", b"true", b"NaN"]))
        )
    path.write_bytes(bytes(content))
    with contextlib.suppress(BundleError):
        bundle.read(good)


# model.onnx


def graph(nodes: list[Any], *, x: Any = None, y: Any = None, weights: Any = (), **model: Any) -> Any:
    inputs = [x or helper.make_tensor_value_info("x", TensorProto.UINT8, ["B", 8, 8, 1])]
    outputs = [y or helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 10])]
    known = {"opset_imports": [helper.make_opsetid("", 20)], "ir_version": 10, **model}
    return helper.make_model(helper.make_graph(nodes, "g", inputs, outputs, list(weights)), **known)


def save(model: Any) -> Callable[[Path], None]:
    return put(model.SerializeToString(), "model.onnx")


def ones(name: str = "w", shape: tuple[int, ...] = (64, 10)) -> Any:
    return onnx.numpy_helper.from_array(np.ones(shape, np.float32), name)


def linear(w: str = "w") -> list[Any]:
    return [
        helper.make_node("Cast", ["x"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["real"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", w], ["y"]),
    ]


def external(folder: Path, location: str) -> None:
    tensor = ones()
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    save(graph(linear(), weights=[tensor]))(folder)


def hidden(folder: Path) -> None:
    """External data inside a branch of an If."""
    tensor = ones("c", ())
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../secret"
    out = helper.make_tensor_value_info("o", TensorProto.FLOAT, [])
    branch = helper.make_graph([helper.make_node("Constant", [], ["o"], value=tensor)], "b", [], [out])
    yes = onnx.numpy_helper.from_array(np.array(True), "yes")
    nodes = [*linear(), helper.make_node("If", ["yes"], ["z"], then_branch=branch, else_branch=branch)]
    save(graph(nodes, weights=[ones(), yes]))(folder)


def own_operator(folder: Path) -> None:
    node = helper.make_node("Run", ["x"], ["y"], domain="com.evil")
    save(graph([node], opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("com.evil", 1)]))(folder)


def unlisted_operator(folder: Path) -> None:
    save(graph([helper.make_node("Run", ["x"], ["y"], domain="com.evil")]))(folder)


def function(folder: Path) -> None:
    opset = [helper.make_opsetid("", 20)]
    f = helper.make_function("ai.onnx", "F", ["a"], ["b"], [helper.make_node("Identity", ["a"], ["b"])], opset)
    save(graph(linear(), weights=[ones()], functions=[f]))(folder)


def truncated(folder: Path) -> None:
    content = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(content[: len(content) // 2])


def symlink(folder: Path) -> None:
    secret = folder.parent / "secret"
    secret.write_text("the secret text")
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").symlink_to(secret)


def value(name: str, kind: int, *shape: object) -> Any:
    return helper.make_tensor_value_info(name, kind, list(shape))


def another_name(folder: Path) -> None:
    nodes = [helper.make_node("Identity", ["z"], ["x"]), *linear()]
    save(graph(nodes, x=value("z", TensorProto.UINT8, "B", 8, 8, 1), weights=[ones()]))(folder)


ZERO = onnx.numpy_helper.from_array(np.float32(0), "zero")
NAN = [
    helper.make_node("Cast", ["x"], ["real"], to=TensorProto.FLOAT),
    helper.make_node("Flatten", ["real"], ["flat"], axis=1),
    helper.make_node("MatMul", ["flat", "w"], ["m"]),
    helper.make_node("Div", ["zero", "zero"], ["nan"]),
    helper.make_node("Add", ["m", "nan"], ["y"]),
]

BAD_GRAPHS: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty": (put(b"", "model.onnx"), "not an ONNX model"),
    "text": (put(b"hello, this is no model", "model.onnx"), "not an ONNX model"),
    "a picture": (put(b"\x89PNG\r\n\x1a\n" + bytes(100), "model.onnx"), "not an ONNX model"),
    "a pickle": (put(b"\x80\x04\x95\x10cos\nsystem\n.", "model.onnx"), "not an ONNX model"),
    "truncated": (truncated, "ONNX"),
    "external data": (lambda f: external(f, "weights.bin"), "keeps weights in another file"),
    "external data outside": (lambda f: external(f, "../../../etc/passwd"), "keeps weights in another file"),
    "external data in a branch": (hidden, "keeps weights in another file"),
    "an own operator": (own_operator, "com.evil"),
    "an own operator, not listed": (unlisted_operator, "com.evil"),
    "a function": (function, "functions"),
    "an unknown operator": (save(graph([helper.make_node("Nonsense", ["x"], ["y"])])), "cannot be loaded"),
    "a link to another file": (symlink, "not an ONNX model"),
    "another input name": (another_name, "other inputs and outputs than x and y"),
    "another input type": (
        save(graph(linear(), x=value("x", TensorProto.FLOAT, "B", 8, 8, 1), weights=[ones()])),
        "fails on its own example",
    ),
    "another input shape": (
        save(graph(linear(), x=value("x", TensorProto.UINT8, "B", 4, 4, 1), weights=[ones(shape=(16, 10))])),
        "fails on its own example",
    ),
    "another number of outputs": (
        save(graph(linear(), y=value("y", TensorProto.FLOAT, "B", 3), weights=[ones(shape=(64, 3))])),
        "does not give its own example's answer",
    ),
    "other weights": (save(graph(linear(), weights=[ones()])), "does not give its own example's answer"),
    "answers that are no numbers": (save(graph(NAN, weights=[ones(), ZERO])), "example's answer"),
}  # fmt: skip


@pytest.mark.parametrize(("harm", "why"), BAD_GRAPHS.values(), ids=BAD_GRAPHS)
def test_a_bad_graph_is_refused(good: Path, harm: Callable[[Path], None], why: str) -> None:
    harm(good)
    error = refused(good)
    assert why in str(error)
    assert str(good) in str(error)
    assert "secret text" not in str(error)


def test_a_batch_of_one_only_is_refused_nowhere_else_than_in_use(good: Path) -> None:
    model = infer.load(good)
    assert infer.run(model, np.zeros((7, 8, 8, 1), np.uint8)).shape == (7, 10)


@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
def test_a_bundle_of_links_is_read_as_a_data_cache_makes_it(good: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in ("bundle.json", "model.onnx"):
        (linked / name).symlink_to(good / name)
    assert infer.load(linked).manifest == bundle.read(good)


@pytest.mark.parametrize("name", ["schema 99", "example with another answer"])
def test_the_command_line_says_it_and_ends_in_1(
    good: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    harm, why = BAD_MANIFESTS[name]
    harm(good)
    monkeypatch.chdir(good.parent)
    (good.parent / "a.png").write_bytes(base64.b64decode(PIXEL))
    before = contents(good.parent)
    said = call(capsys, "predict", "a.png", "--run", "bundle", "--json")
    assert (said.code, said.out) == (1, "")
    assert why in said.err
    assert "Traceback" not in said.err
    assert contents(good.parent) == before


PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="


def test_a_write_that_breaks_off_leaves_the_old_manifest(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = bundle.read(good)
    before = (good / "bundle.json").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("proj.bundle.os.replace", full)
    with pytest.raises(OSError, match="No space"):
        bundle.write(good, manifest.model_copy(update={"version": "new"}))
    assert (good / "bundle.json").read_bytes() == before
    shutil.rmtree(good)
