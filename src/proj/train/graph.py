"""An exported graph, rewritten for the engine that serves it: the same answers but for rounding, in less time.

ONNX Runtime keeps pictures in blocks of channels from one convolution to the next. What it has no such kernel for, it
lays out anew before and after: a mean over the picture, and a product of the picture with one number a channel, as each
squeeze and excitation has them. And bytes come as they lie in memory, (H, W, C), where a convolution wants (C, H, W).

Time of the rewritten graph over that of the one that torch writes, 224 x 224, one thread (`python bench/graph.py`):

    mobilenetv3_small_100  ONNX Runtime 0.90, without its blocks (most CPUs but x86) 1.04, OpenVINO fp32 1.01, bf16 1.06
    efficientnet_b0        ONNX Runtime 0.92, without 1.10, OpenVINO fp32 1.07, bf16 1.04
    resnet18               0.98 to 1.09: noise, for its first layer is a small part of it
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.convenience import get_const_tensor, replace_nodes_and_values
from onnx_ir.passes.common import RemoveUnusedNodesPass

Array = np.ndarray[Any, np.dtype[Any]]
GATES = {"Sigmoid", "HardSigmoid"}


def rewrite(model: ir.Model) -> None:
    """Change the graph where it has what is described above; any other stays as it is."""
    for node in [*model.graph]:
        if node.op_type == "ReduceMean":
            _pool(model.graph, node)
        elif node.op_type == "Mul":
            _spread(model.graph, node)
        elif node.op_type == "Conv":
            _read_as_they_lie(model.graph, node)
    RemoveUnusedNodesPass()(model)  # and the numbers that only what is replaced took


def _pool(graph: ir.Graph, node: ir.Node) -> None:
    """A mean over a picture's rows and columns, as the pooling that blocks have."""
    x, axes = node.inputs[0], _constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is None or _sizes(x) is None or not node.attributes.get_int("keepdims", 1):
        return
    if sorted(int(a) % 4 for a in axes) == [2, 3]:
        _replace(graph, [node], [ir.node("GlobalAveragePool", [x])])


def _spread(graph: ir.Graph, node: ir.Node) -> None:
    """A picture times a gate (B, C, 1, 1), which is made as large first: blocks are multiplied with no others."""
    for i, gate in enumerate(node.inputs):
        picture = node.inputs[1 - i]
        small, large = _sizes(gate), _sizes(picture)
        if small is None or large is None or small != (large[0], 1, 1) or large == small:
            continue
        if gate is None or picture is None or _made_by(gate) not in GATES:
            continue
        scales = _initializer(graph, f"{node.outputs[0].name}_scales", np.array([1, 1, *large[1:]], np.float32))
        nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        spread = ir.node("Resize", [gate, None, scales], nearest)
        # ONNX Runtime itself does not find out that the batch is as large as before.
        spread.outputs[0].shape, spread.outputs[0].type = picture.shape, gate.type
        graph.insert_before(node, spread)
        node.replace_input_with(i, spread.outputs[0])


def _read_as_they_lie(graph: ir.Graph, conv: ir.Node) -> None:
    """The first convolution, of bytes (B, H, W, C): its kernel strides over rows of W · C numbers, as one channel.

    A factor before it (one over the standard deviation) goes into its weights. What is subtracted (the mean) does not
    go into its bias: beyond the picture's border there are zeros, which stand for the mean.
    """
    w, bias = _constant(conv.inputs[1]), conv.inputs[2:]
    found = _bytes_before(conv)
    sizes = _sizes(found[1]) if found is not None else None
    if found is None or sizes is None or w is None or not _plain(conv):
        return
    old, raw, factor, less = found
    (h, width, c), (kh, kw) = sizes, w.shape[2:]
    name = conv.outputs[0].name
    flat = ir.node("Reshape", [raw, _initializer(graph, f"{name}_shape", np.array([0, 1, h, width * c]))])
    new = [flat, ir.node("Cast", flat.outputs, {"to": ir.DataType.FLOAT})]
    if less is not None:
        mean = np.tile((less / factor).reshape(1, 1, 1, c), (1, 1, 1, width)).astype(np.float32)
        new.append(ir.node("Sub", [new[-1].outputs[0], _initializer(graph, f"{name}_mean", mean)]))
    rows = (w * factor).transpose(0, 2, 3, 1).reshape(len(w), 1, kh, kw * c).astype(np.float32)
    sh, sw = conv.attributes.get_ints("strides") or (1, 1)
    top, left, bottom, right = conv.attributes.get_ints("pads") or (0, 0, 0, 0)
    there = {"kernel_shape": [kh, kw * c], "strides": [sh, sw * c], "pads": [top, left * c, bottom, right * c]}
    new.append(ir.node("Conv", [new[-1].outputs[0], _initializer(graph, f"{name}_weight", rows), *bias], there))
    _replace(graph, [*old, conv], new)


def _plain(conv: ir.Node) -> bool:
    """Ungrouped, undilated, its padding told in numbers."""
    a = conv.attributes
    dilations = a.get_ints("dilations", (1, 1)) or ()
    return a.get_int("group", 1) == 1 and {*dilations} == {1} and a.get_string("auto_pad", "NOTSET") == "NOTSET"


def _bytes_before(conv: ir.Node) -> tuple[list[ir.Node], ir.Value, Array, Array | None] | None:
    """What lies between bytes (B, H, W, C) and a convolution: the nodes in their order, the bytes, factor, subtrahend.

    These two are (1, C, 1, 1), or 1 and None where there are none. None where something else lies there.
    """
    old: list[ir.Node] = []
    factor: Array = np.ones((1, 1, 1, 1))
    less: Array | None = None
    expected = ["Sub", "Mul", "Cast", "Transpose"]
    value = conv.inputs[0]
    while expected:
        node = value.producer() if value is not None and len(value.uses()) == 1 else None
        if node is None or node.op_type not in expected or value is None or value.is_graph_output():
            return None
        del expected[: expected.index(node.op_type) + 1]
        if node.op_type in {"Sub", "Mul"}:
            number = _constant(node.inputs[1])
            if number is None or number.ndim != 4 or number.shape != (1, number.shape[1], 1, 1):
                return None
            factor, less = (factor, number) if node.op_type == "Sub" else (number, less)
        old.insert(0, node)
        value = node.inputs[0]
    if len(old) < 2 or value is None or value.dtype != ir.DataType.UINT8:
        return None
    return (old, value, factor, less) if [*(old[0].attributes.get_ints("perm") or ())] == [0, 3, 1, 2] else None


def _sizes(value: ir.Value | None) -> tuple[int, int, int] | None:
    """All but the first of four known sizes."""
    if value is None or value.shape is None or len(value.shape) != 4:
        return None
    a, b, c = value.shape[1:]
    return (a, b, c) if isinstance(a, int) and isinstance(b, int) and isinstance(c, int) else None


def _made_by(value: ir.Value) -> str:
    node = value.producer()
    return node.op_type if node is not None else ""


def _constant(value: ir.Value | None) -> Array | None:
    tensor = get_const_tensor(value) if value is not None else None
    return tensor.numpy() if tensor is not None else None


def _initializer(graph: ir.Graph, name: str, x: Array) -> ir.Value:
    value = ir.Value(name=name, shape=ir.Shape(x.shape), type=ir.TensorType(ir.DataType.from_numpy(x.dtype)))
    value.const_value = ir.tensor(x, name=name)
    graph.register_initializer(value)
    return value


def _replace(graph: ir.Graph, old: list[ir.Node], new: list[ir.Node]) -> None:
    """The last of the new ones gives what the last of the old ones gave."""
    replace_nodes_and_values(graph, old[-1], old, new, old[-1].outputs, new[-1].outputs)
