"""`proj.train.graph`: the rewritten graph gives the same answers, and what is unlike is left as it is."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proj.train import graph

Array = np.ndarray[Any, np.dtype[Any]]


def model(text: str, **constants: Array) -> onnx.ModelProto:
    """A graph as ONNX writes it in words, with its shapes inferred and `constants` as what it is trained to."""
    made = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 20]> {text}')
    made.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in constants.items())
    return onnx.shape_inference.infer_shapes(made, strict_mode=True)


def rewritten(m: onnx.ModelProto) -> onnx.ModelProto:
    changed = ir.from_proto(m)
    graph.rewrite(changed)
    found = ir.to_proto(changed)
    onnx.checker.check_model(found, full_check=True)
    return found


def ops(m: onnx.ModelProto) -> collections.Counter[str]:
    return collections.Counter(n.op_type for n in m.graph.node)


def counted(before: onnx.ModelProto, *, less: list[str], more: list[str]) -> collections.Counter[str]:
    return ops(before) - collections.Counter(less) + collections.Counter(more)


def same(before: onnx.ModelProto, after: onnx.ModelProto, x: Array) -> None:
    a, b = (
        ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for m in (before, after)
    )
    assert a.shape == b.shape
    assert np.abs(a).max() > 0
    assert np.allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(a).max())


def floats(*shape: int) -> Array:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


SQUEEZE = """g (float[N, 12, 9, 7] x) => (float[N, 12, 9, 7] y) {
    m = ReduceMean<keepdims = 1>(x, axes)
    r = Conv(m, w1)
    a = Relu(r)
    e = Conv(a, w2)
    s = %s(e)
    y = Mul(%s)
}"""


def squeeze(gate: str, product: str, axes: tuple[int, ...] = (2, 3)) -> onnx.ModelProto:
    constants = {"w1": floats(3, 12, 1, 1), "w2": floats(12, 3, 1, 1), "axes": np.array(axes)}
    return model(SQUEEZE % (gate, product), **constants)


@pytest.mark.parametrize(("gate", "product", "axes"), [("Sigmoid", "x, s", (2, 3)), ("HardSigmoid", "s, x", (-1, -2))])
def test_a_gate_is_made_as_large_as_the_picture(gate: str, product: str, axes: tuple[int, ...]) -> None:
    before = squeeze(gate, product, axes)
    after = rewritten(before)
    assert ops(after) == counted(before, less=["ReduceMean"], more=["GlobalAveragePool", "Resize"])
    same(before, after, floats(3, 12, 9, 7))


def test_a_gate_may_serve_two_pictures() -> None:
    text = """g (float[N, 4, 5, 5] x, float[N, 4, 1, 1] z) => (float[N, 4, 5, 5] y) {
        s = Sigmoid(z)
        a = Mul(x, s)
        b = Relu(x)
        c = Mul(b, s)
        y = Add(a, c)
    }"""
    assert ops(rewritten(model(text)))["Resize"] == 2


def test_another_factor_is_not_made_larger() -> None:
    assert ops(rewritten(squeeze("Tanh", "x, s")))["Resize"] == 0
    assert ops(rewritten(squeeze("Sigmoid", "x, x")))["Resize"] == 0
    free = model(
        "g (float[N, 4, H, W] x, float[N, 4, 1, 1] z) => (float[N, 4, H, W] y) { s = Sigmoid(z) y = Mul(x, s) }"
    )
    assert ops(rewritten(free)) == ops(free)
    row = model("g (float[N, 4, 1, 1] x) => (float[N, 4, 1, 1] y) { s = Sigmoid(x) y = Mul(x, s) }")
    assert ops(rewritten(row)) == ops(row)


def test_a_mean_that_is_the_answer_keeps_its_name() -> None:
    before = model(
        "g (float[N, 4, 5, 5] x) => (float[N, 4, 1, 1] y) { y = ReduceMean(x, axes) }", axes=np.array([3, 2])
    )
    after = rewritten(before)
    assert ops(after) == {"GlobalAveragePool": 1}
    same(before, after, floats(2, 4, 5, 5))


@pytest.mark.parametrize(
    ("keep", "axes", "out"),
    [(0, (2, 3), "N, 4"), (1, (1, 2), "N, 1, 1, 5"), (1, (2,), "N, 4, 1, 5"), (1, (1, 2, 3), "N, 1, 1, 1")],
)
def test_other_means_stay(keep: int, axes: tuple[int, ...], out: str) -> None:
    text = f"g (float[N, 4, 5, 5] x) => (float[{out}] y) {{ y = ReduceMean<keepdims = {keep}>(x, axes) }}"
    before = model(text, axes=np.array(axes))
    assert ops(rewritten(before)) == ops(before)


STEM = """g (uint8[N, {h}, {w}, {c}] x) => (float[N, {o}, {oh}, {ow}] y) {{
    t = Transpose<perm = [0, 3, 1, 2]>(x)
    f = Cast<to = 1>(t)
    {between}
    y = Conv<kernel_shape = {kernel}, strides = {strides}, pads = {pads}{more}>(n, weight, bias)
}}"""
SCALED = "p = Mul(f, factor) n = Sub(p, mean)"


def stem(
    c: int = 3,
    kernel: tuple[int, int] = (3, 3),
    strides: tuple[int, int] = (2, 2),
    pads: tuple[int, int, int, int] = (1, 1, 1, 1),
    *,
    between: str = SCALED,
    more: str = "",
    inputs: int = 0,
    **constants: Array,
) -> onnx.ModelProto:
    h, w, o, rng = 12, 10, 5, np.random.default_rng(0)
    oh = (h + pads[0] + pads[2] - kernel[0]) // strides[0] + 1
    ow = (w + pads[1] + pads[3] - kernel[1]) // strides[1] + 1
    if "dilations" in more:
        oh, ow = oh - 1, ow - 1
    there = {"factor": 1 / rng.uniform(40, 70, (1, c, 1, 1)), "mean": rng.uniform(1, 3, (1, c, 1, 1))}
    there |= {"weight": floats(o, inputs or c, *kernel), "bias": floats(o)} | constants
    text = STEM.format(
        h=h, w=w, c=c, o=o, oh=oh, ow=ow, between=between, kernel=[*kernel], strides=[*strides], pads=[*pads], more=more
    )
    return model(text, **{k: v.astype(np.float32) for k, v in there.items()})


def pixels(c: int) -> Array:
    return np.random.default_rng(0).integers(0, 256, (2, 12, 10, c), dtype=np.uint8)


side = st.integers(0, 3)


@given(
    c=st.sampled_from([1, 3, 4]),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    strides=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    pads=st.tuples(side, side, side, side),
    between=st.sampled_from([SCALED, "n = Sub(f, mean)", "n = Mul(f, factor)", "n = Identity(f)"]),
)
def test_the_first_convolution_reads_bytes_as_they_lie(
    c: int,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    pads: tuple[int, int, int, int],
    between: str,
) -> None:
    before = stem(c, kernel, strides, pads, between=between)
    if "Identity" in between:  # the parser wants a name; what torch exports has no such node
        before.graph.node[3].input[0] = "f"
        del before.graph.node[2]
    after = rewritten(before)
    assert ops(after) == counted(before, less=["Transpose", "Mul"], more=["Reshape"])
    same(before, after, pixels(c))


@pytest.mark.parametrize(
    "unlike",
    [
        {"more": ", dilations = [2, 2]", "pads": (2, 2, 2, 2), "kernel": (2, 2), "strides": (1, 1)},
        {"more": ", group = 5", "c": 5, "inputs": 1},
        {"between": "p = Mul(f, factor) q = Relu(p) n = Sub(q, mean)"},
        {"between": "n = Sub(f, mean)", "mean": floats(1, 3, 12, 10)},
        {"between": "n = Sub(mean, f)"},
        {"between": "p = Sub(f, mean) n = Mul(p, factor)"},
    ],
    ids=["dilated", "grouped", "something between", "a mean for each place", "the other way round", "mean first"],
)
def test_another_first_convolution_stays(unlike: dict[str, Any]) -> None:
    before = stem(**unlike)
    assert ops(rewritten(before)) == ops(before)


def test_pixels_that_somebody_else_reads_too_stay() -> None:
    before = stem()
    before.graph.node.append(onnx.helper.make_node("Relu", ["n"], ["z"]))
    before.graph.output.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["N", 3, 12, 10]))
    assert ops(rewritten(before)) == ops(before)


def test_a_graph_of_something_else_stays() -> None:
    before = model(
        "g (float[N, 8] x) => (float[N, 3] y) { h = Gemm(x, w) y = Softmax(h) }",
        w=floats(8, 3),
    )
    assert ops(rewritten(before)) == ops(before)
