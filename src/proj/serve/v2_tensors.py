"""Tensors of the Open Inference Protocol, version 2: a request's body to what the graph takes, its answer to bytes.

A body is JSON; with the header Inference-Header-Content-Length it is so many bytes of JSON and then the tensor's own
(little-endian, row by row); with that header at 0 the tensor alone. The input is "x", the output "y", as in a bundle.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from proj.errors import BadRequest, InputError, InputTooLarge
from proj.preprocess.spec import PAD, ImageSpec, TextSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proj.bundle import Manifest
    from proj.infer import Array
    from proj.preprocess.spec import Spec

INPUT, OUTPUT = "x", "y"
DTYPES: dict[str, np.dtype[Any]] = {
    "UINT8": np.dtype("<u1"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP32": np.dtype("<f4"),
}
MAX_ID_LENGTH = 1024
SHOWN = 60  # characters of what was found


@dataclass(frozen=True, slots=True)
class Form:
    """What the graph takes for one input. `dims` has -1 for a text's length, of up to `most` ids below `ids`."""

    datatype: str
    dims: tuple[int, ...]
    most: int = 0
    ids: int = 0

    @property
    def shape(self) -> list[int]:
        """With the batch, which is free."""
        return [-1, *self.dims]


def form(spec: Spec, tokenizer: Any = None) -> Form:
    """The form of a model's inputs."""
    if isinstance(spec, TextSpec):
        ids = tokenizer.get_vocab_size() if tokenizer is not None else spec.buckets + 1
        return Form("INT32", (-1,), spec.max_tokens, ids)
    return Form("UINT8" if isinstance(spec, ImageSpec) else "FP32", spec.shape)


@dataclass(frozen=True, slots=True)
class Asked:
    """`x`: (B, ...) as the graph takes it. `classes`: so many of the most probable ones as text, 0 for numbers."""

    x: Array
    id: str | None = None
    binary: bool = False
    classes: int = 0
    timeout_s: float = 0.0


def read(raw: bytes, header_length: int | None, wanted: Form, max_inputs: int) -> Asked:
    """What a request asks. `x` may be a view of `raw`.

    Raises BadRequest for what is no such request, InputError for a tensor that the model does not take, InputTooLarge
    for more than `max_inputs`.
    """
    if header_length == 0:
        return Asked(_alone(raw, wanted, max_inputs))
    if header_length is not None and header_length > len(raw):
        raise BadRequest("the body is shorter than its JSON", found=f"{len(raw)} bytes of {header_length}")
    content = memoryview(raw)[:header_length]
    try:
        request = orjson.loads(content)
    except ValueError as e:
        raise BadRequest("the body is not JSON", found=str(e)[:200]) from None
    request = _object(request, "the JSON")
    tensor = _one_input(request.get("inputs"))
    rest = memoryview(raw)[header_length:] if header_length is not None else memoryview(b"")
    parameters = _object(request.get("parameters", {}), "'parameters'")
    binary, classes = _output(request.get("outputs"), _flag(parameters, "binary_data_output", default=False))
    return Asked(_tensor(tensor, rest, wanted, max_inputs), _id(request), binary, classes, _timeout_s(parameters))


def _alone(raw: bytes, wanted: Form, max_inputs: int) -> Array:
    """A body that is the tensor's bytes: the one length that is not known follows from theirs."""
    per_input = math.prod(wanted.dims) if -1 not in wanted.dims else 0
    item = DTYPES[wanted.datatype].itemsize
    n, left = divmod(len(raw), item * per_input if per_input else item)
    if left:
        raise InputError("the body is not whole inputs", found=f"{len(raw)} bytes")
    shape = [n, *wanted.dims] if per_input else [1, n]
    _check_shape(shape, wanted, max_inputs)
    return _checked(_from_bytes(memoryview(raw), shape, wanted.datatype), wanted)


def _one_input(inputs: Any) -> dict[str, Any]:
    if not isinstance(inputs, list) or not inputs:
        raise BadRequest("'inputs' is not a list of tensors", found=f"one is needed, {INPUT!r}")
    tensors = [_object(i, "an input") for i in inputs]
    odd = next((t.get("name") for t in tensors if t.get("name") != INPUT), None)
    if odd is not None or len(tensors) > 1:
        found = f"{_shown(odd)} was given" if odd is not None else f"{INPUT!r} was given more than once"
        raise BadRequest(f"the model has one input, {INPUT!r}", found=found)
    return tensors[0]


def _tensor(tensor: dict[str, Any], rest: memoryview, wanted: Form, max_inputs: int) -> Array:
    given = tensor.get("datatype")
    # 64-bit whole numbers are what most languages make of token ids.
    if given != wanted.datatype and not (wanted.datatype == "INT32" and given == "INT64"):
        raise InputError(f"datatype {_shown(given)}", found=f"the model takes {wanted.datatype}")
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not all(type(d) is int and d >= 0 for d in shape):
        raise InputError("'shape' is not a list of whole numbers", found=f"the model takes {wanted.shape}")
    _check_shape(shape, wanted, max_inputs)
    parameters = _object(tensor.get("parameters", {}), "an input's 'parameters'")
    if "shared_memory_region" in parameters:
        raise BadRequest("shared memory is not offered", next="send the tensor's data")
    size = parameters.get("binary_data_size")
    if size is None:
        if len(rest):
            raise BadRequest("there are bytes behind the JSON", found=f"{len(rest)}, and no binary_data_size")
        x = _from_json(tensor.get("data"), shape, str(given))
    else:
        if "data" in tensor:
            raise BadRequest("the tensor has both 'data' and 'binary_data_size'", next="send one of them")
        if type(size) is not int or size != len(rest):
            raise BadRequest("binary_data_size is not right", found=f"{_shown(size)}; {len(rest)} bytes came")
        x = _from_bytes(rest, shape, str(given))
    return _checked(x, wanted)


def _check_shape(shape: list[int], wanted: Form, max_inputs: int) -> None:
    """Before any number is looked at."""
    fits = len(shape) == 1 + len(wanted.dims) and all(
        given == d or (d == -1 and 1 <= given <= wanted.most) for given, d in zip(shape[1:], wanted.dims, strict=True)
    )
    if not fits or shape[0] < 1:
        limit = f", of up to {wanted.most} ids" if wanted.most else ""
        raise InputError(f"shape {str(shape)[:SHOWN]}", found=f"the model takes {wanted.shape}{limit}")
    if shape[0] > max_inputs:
        raise InputTooLarge("too many inputs in one request", found=f"{shape[0]}, the limit is {max_inputs}")


def _from_bytes(raw: memoryview, shape: list[int], datatype: str) -> Array:
    dtype = DTYPES[datatype]
    if len(raw) != math.prod(shape) * dtype.itemsize:
        raise InputError(
            f"the tensor has {len(raw)} bytes", found=f"{shape} {datatype} is {math.prod(shape) * dtype.itemsize}"
        )
    return np.frombuffer(raw, dtype).reshape(shape)


def _from_json(data: Any, shape: list[int], datatype: str) -> Array:
    """`data` is flat, or nested as the shape is."""
    numbers = _flat(data, shape)
    # Before NumPy looks: of one long text among a million numbers it would make a million long texts.
    kinds = {int, float} if datatype == "FP32" else {int}
    odd = next(iter(set(map(type, numbers)) - kinds), None)
    if odd is not None:
        raise InputError("'data' has what does not fit", found=f"{odd.__name__}, the model takes {datatype}")
    if datatype == "FP32":
        with np.errstate(over="ignore"):  # what is too large for a float32 becomes infinite, which is refused
            return np.array(numbers, np.float64).astype(np.float32).reshape(shape)
    limits = np.iinfo(DTYPES[datatype])
    low, high = min(numbers), max(numbers)
    if low < limits.min or high > limits.max:
        raise InputError(f"'data' has numbers that are no {datatype}", found=f"{low} to {high}")
    return np.array(numbers, DTYPES[datatype]).reshape(shape)


def _flat(data: Any, shape: list[int]) -> list[Any]:
    """The numbers, row by row, so many as the shape has."""
    size = math.prod(shape)
    if not isinstance(data, list):
        raise InputError("'data' is not a list of numbers")
    if len(data) == size and not isinstance(data[0], list):
        return data
    if len(data) != shape[0]:
        raise InputError(f"'data' has {len(data)} items", found=f"shape {shape} has {size} numbers")
    for length in shape[1:]:
        if set(map(type, data)) != {list} or set(map(len, data)) != {length}:
            raise InputError("'data' is not nested as its shape is", found=f"shape {shape}")
        data = list(chain.from_iterable(data))
    made: list[Any] = data
    return made


def _checked(x: Array, wanted: Form) -> Array:
    """As the graph takes it: native, aligned, and nothing in it that the graph could fail on."""
    if wanted.datatype == "FP32" and not np.isfinite(x).all():
        raise InputError("the tensor has what is no finite number")
    if wanted.datatype == "INT32" and (x.min() < 0 or x.max() >= wanted.ids):
        raise InputError(f"ids {x.min()} to {x.max()}", found=f"the model knows 0 to {wanted.ids - 1}")
    if wanted.datatype == "INT32" and not x.any(axis=1).all():
        raise InputError("a text of padding alone", found=f"all of its ids are {PAD}")
    dtype = DTYPES[wanted.datatype].newbyteorder("=")
    return np.require(x.astype(dtype, copy=False), requirements=["C", "A"])


def _output(outputs: Any, binary: bool) -> tuple[bool, int]:
    """Whether "y" is wanted as bytes, and as how many classes."""
    if outputs is None or outputs == []:
        return binary, 0
    if not isinstance(outputs, list):
        raise BadRequest("'outputs' is not a list")
    names = [_object(o, "an output").get("name") for o in outputs]
    if names != [OUTPUT]:
        raise BadRequest(f"the model has one output, {OUTPUT!r}", found=f"{_shown(names)} was asked for")
    parameters = _object(outputs[0].get("parameters", {}), "an output's 'parameters'")
    if "shared_memory_region" in parameters:
        raise BadRequest("shared memory is not offered", next="ask for the tensor's data")
    classes = parameters.get("classification", 0)
    if type(classes) is not int or classes < 0:
        raise BadRequest("'classification' is not a number of classes", found=_shown(classes))
    return _flag(parameters, "binary_data", default=binary), classes


def _id(request: dict[str, Any]) -> str | None:
    given = request.get("id")
    if given is not None and (not isinstance(given, str) or len(given) > MAX_ID_LENGTH):
        raise BadRequest("'id' is not a text", found=f"up to {MAX_ID_LENGTH} characters are taken")
    return given


def _timeout_s(parameters: dict[str, Any]) -> float:
    given = parameters.get("timeout", 0)  # microseconds, as Triton has it
    if type(given) is not int or given < 0:
        raise BadRequest("'timeout' is not a number of microseconds", found=_shown(given))
    return float(given / 1e6)


def _flag(parameters: dict[str, Any], name: str, *, default: bool) -> bool:
    given = parameters.get(name, default)
    if not isinstance(given, bool):
        raise BadRequest(f"{name!r} is neither true nor false", found=_shown(given))
    return given


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRequest(f"{what} is not an object", found=_shown(value))
    return value


def _shown(value: Any) -> str:
    return repr(value)[:SHOWN]


def write(asked: Asked, name: str, manifest: Manifest, y: Array) -> tuple[bytes, int | None]:
    """The answer `y` (B, names) as a body, and how many bytes of it are JSON where it has others.

    Raises InputError where the model says nothing finite, or classes are asked of one that has none.
    """
    if not np.isfinite(y).all():
        raise InputError("the model gives no finite number for this input")
    output: dict[str, Any] = {"name": OUTPUT}
    if asked.classes:
        texts = _classes(y, manifest, asked.classes)
        output |= {"datatype": "BYTES", "shape": [len(texts), len(texts[0])]}
        data = _bytes_tensor(texts)
        listed: Any = [t for row in texts for t in row]
    else:
        output |= {"datatype": "FP32", "shape": list(y.shape)}
        listed = np.ascontiguousarray(y, np.float32).ravel()
        data = y.astype(DTYPES["FP32"], copy=False).tobytes()
    output |= {"parameters": {"binary_data_size": len(data)}} if asked.binary else {"data": listed}
    answer: dict[str, Any] = {"model_name": name, "model_version": manifest.version, "outputs": [output]}
    if asked.id is not None:
        answer["id"] = asked.id
    if manifest.warning:
        answer["parameters"] = {"warning": manifest.warning}
    made = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return (made + data, len(made)) if asked.binary else (made, None)


def _classes(y: Array, manifest: Manifest, n: int) -> list[list[str]]:
    """Each row's `n` most probable classes as Triton writes them: PROBABILITY:INDEX:NAME."""
    if manifest.kind != "classes":
        raise InputError("the model has no classes", found="its answers are values")
    best = np.argsort(-y, axis=1, kind="stable")[:, :n]
    return [[f"{row[i]:f}:{i}:{manifest.names[i]}" for i in order] for row, order in zip(y, best.tolist(), strict=True)]


def _bytes_tensor(rows: Sequence[Sequence[str]]) -> bytes:
    """Texts as the protocol has them: each behind its length, a little-endian uint32."""
    encoded = [text.encode() for row in rows for text in row]
    return b"".join(struct.pack("<I", len(e)) + e for e in encoded)
