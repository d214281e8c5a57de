"""Small real bundles, made with `onnx.helper`: for tests of what reads a bundle; no torch, milliseconds."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from proj import bundle
from proj.bundle import Example, Manifest, ServeSettings
from proj.preprocess import ImageSpec

DIGITS = tuple("0123456789")


def make_bundle(
    folder: Path,
    *,
    shape: tuple[int, int, int] = (8, 8, 1),
    names: Sequence[str] = DIGITS,
    units: Sequence[str] = (),
    kind: Literal["classes", "values"] = "classes",
    page_input: Literal["photo", "sketch"] = "sketch",
    fit: Literal["squash", "ink"] = "ink",
    ink_px: int = 8,
    name: str = "digits",
    version: str = "test",
    title: str = "Handwritten digits",
    question: str = "Which digit is this?",
    metrics: dict[str, float] | None = None,
    synthetic: bool = False,
    fast: bool = False,
    serve: ServeSettings | None = None,
    seed: int = 0,
    work: int = 0,
) -> Path:
    """Write `folder/model.onnx` and `folder/bundle.json` and return `folder`.

    The graph is linear with weights drawn from `seed`, so that answers differ from input to input. `work`
    makes every call slow: that many products of 256 x 256 matrices (about 0.15 ms each on one core).
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = tuple(names)
    if kind == "values" and not units:
        units = ("g",) * len(names)
    save_graph(folder / "model.onnx", shape, len(names), kind=kind, seed=seed, work=work)
    x = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    spec = ImageSpec(
        height_px=shape[0], width_px=shape[1], channels=3 if shape[2] == 3 else 1, fit=fit,
        ink_px=ink_px if fit == "ink" else 0,
    )  # fmt: skip
    manifest = Manifest(
        name=name, version=version, title=title, question=question, modality="image", kind=kind,
        page_input=page_input, names=names, units=tuple(units), preprocess=spec.to_dict(), data_hash="0" * 16,
        metrics=metrics or ({"accuracy": 0.93, "macro_f1": 0.92} if kind == "classes" else {"mae": 1.5}),
        backbone="linear", created="2026-01-01T00:00:00+00:00", synthetic=synthetic, fast=fast,
        example=Example(
            x_base64=base64.b64encode(x.tobytes()).decode(), shape=shape,
            y=tuple(float(v) for v in answer(folder / "model.onnx", x[None])[0]),
        ),
        serve=serve or ServeSettings(),
    )  # fmt: skip
    bundle.write(folder, manifest)
    return folder


def save_graph(
    path: Path,
    shape: tuple[int, int, int],
    outputs: int,
    *,
    kind: Literal["classes", "values"] = "classes",
    seed: int = 0,
    work: int = 0,
) -> None:
    """uint8 (B, H, W, C) "x" to float32 (B, outputs) "y": flat(x) W + b, and a softmax for classes."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(seed)
    flat = int(np.prod(shape))
    scale = (3.0 if kind == "classes" else 1.0) / (255.0 * np.sqrt(flat))
    weights = {
        "weight": (rng.standard_normal((flat, outputs)) * scale).astype(np.float32),
        "bias": (rng.standard_normal(outputs) * 0.1).astype(np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["x"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["real"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["linear"]),
    ]
    last = "linear"
    if work:
        nodes += _busy(weights, work)
        nodes.append(helper.make_node("Add", [last, "nought"], ["after_work"]))
        last = "after_work"
    end = "Softmax" if kind == "classes" else "Identity"
    nodes.append(helper.make_node(end, [last], ["y"], **({"axis": -1} if kind == "classes" else {})))
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["B", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", outputs])],
        [numpy_helper.from_array(a, n) for n, a in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _busy(weights: dict[str, np.ndarray[Any, Any]], work: int) -> list[Any]:
    """Nodes that multiply matrices `work` times and end in "nought", which is 0 and depends on the input."""
    from onnx import TensorProto, helper

    size = 256
    weights["eye"] = np.eye(size, dtype=np.float32)
    weights["zero"] = np.zeros((), np.float32)
    weights["trips"] = np.array(work, np.int64)
    weights["go"] = np.array(True)
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_in"], ["go_out"]),
            helper.make_node("MatMul", ["m_in", "eye"], ["m_out"]),
        ],
        "multiply",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("m_in", TensorProto.FLOAT, [size, size]),
        ],
        [
            helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("m_out", TensorProto.FLOAT, [size, size]),
        ],
    )
    return [
        helper.make_node("ReduceMax", ["real"], ["brightest"], keepdims=0),
        # The matrix depends on the input, or ONNX Runtime would work the loop out beforehand.
        helper.make_node("Add", ["eye", "brightest"], ["m"]),
        helper.make_node("Loop", ["trips", "go", "m"], ["m_end"], body=body),
        helper.make_node("ReduceMax", ["m_end"], ["m_max"], keepdims=0),
        helper.make_node("Mul", ["m_max", "zero"], ["nought"]),
    ]


def answer(model: Path, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What the graph itself says to a batch (B, H, W, C), uint8."""
    import onnxruntime as ort

    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    y: np.ndarray[Any, Any] = session.run(["y"], {"x": x})[0]
    return y
