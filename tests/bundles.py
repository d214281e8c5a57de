"""Small real bundles of every modality, made with `onnx.helper` in milliseconds, without torch."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from proj import bundle
from proj.bundle import Example, Manifest, Sample, ServeSettings
from proj.preprocess.spec import ImageSpec, SeriesSpec, TextSpec

DIGITS = tuple("0123456789")
FORCES = ("Fx", "Fy", "Fz", "Tx", "Ty", "Tz")
ARTICLES = (
    Sample(
        name="A vote",
        body={"title": "Senate passes the budget", "text": "The vote took three hours and ended 52 to 48."},
    ),
    Sample(
        name="A miracle",
        body={"title": "Doctors HATE this!!!", "text": "One weird trick that they do not want you to know."},
    ),
)


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
    views: int = 1,
    samples: Sequence[Sample] = (),
) -> Path:
    """Write `folder/model.onnx` and `folder/bundle.json` of a model of pictures and return `folder`.

    With `views` an input is (views, *shape). The graph is linear with weights drawn from `seed`, so that answers differ
    from input to input. `work` makes every call slow: that many products of 256 x 256 matrices (about 0.15 ms each on
    one core).
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = tuple(names)
    if kind == "values" and not units:
        units = ("g",) * len(names)
    whole = (views, *shape) if views > 1 else shape
    save_graph(folder / "model.onnx", whole, len(names), kind=kind, seed=seed, work=work)
    x = np.random.default_rng(seed).integers(0, 256, whole, dtype=np.uint8)
    spec = ImageSpec(
        height_px=shape[0], width_px=shape[1], channels=3 if shape[2] == 3 else 1, fit=fit,
        ink_px=ink_px if fit == "ink" else 0, views=views,
    )  # fmt: skip
    manifest = Manifest(
        name=name, version=version, title=title, question=question, modality="image", kind=kind,
        page_input=page_input, names=names, units=tuple(units), preprocess=spec.to_dict(), data_hash="0" * 16,
        metrics=metrics or ({"accuracy": 0.93, "macro_f1": 0.92} if kind == "classes" else {"mae": 1.5}),
        backbone="linear", created="2026-01-01T00:00:00+00:00", synthetic=synthetic, fast=fast,
        example=Example(
            x_base64=base64.b64encode(x.tobytes()).decode(), shape=whole,
            y=tuple(float(v) for v in answer(folder / "model.onnx", x[None])[0]),
        ),
        samples=tuple(samples), serve=serve or ServeSettings(),
    )  # fmt: skip
    bundle.write(folder, manifest)
    return folder


def make_text_bundle(
    folder: Path,
    *,
    fields: Sequence[str] = ("title", "text"),
    encoding: Literal["hash", "tokenizer"] = "hash",
    max_tokens: int = 64,
    names: Sequence[str] = ("fake", "real"),
    name: str = "fakenews",
    title: str = "Fake or real?",
    question: str = "Is this article fake or real?",
    samples: Sequence[Sample] = ARTICLES,
    serve: ServeSettings | None = None,
    seed: int = 0,
) -> Path:
    """A bundle of a model of texts: the mean of its ids' embeddings, and a softmax."""
    folder.mkdir(parents=True, exist_ok=True)
    buckets = 512
    if encoding == "tokenizer":
        _save_tokenizer(folder / bundle.TOKENIZER, buckets)
        spec = TextSpec(fields=tuple(fields), encoding="tokenizer", max_tokens=max_tokens)
    else:
        spec = TextSpec(
            fields=tuple(fields), encoding="hash", max_tokens=max_tokens, buckets=buckets, word_ngrams=2,
            char_ngrams=(3, 4),
        )  # fmt: skip
    save_text_graph(folder / "model.onnx", buckets + 1, len(names), seed=seed)
    x = np.random.default_rng(seed).integers(1, buckets, (9,), dtype=np.int32)
    _write(
        folder, x, spec, names=names, modality="text", kind="classes", units=(), name=name, title=title,
        question=question, samples=samples, serve=serve,
    )  # fmt: skip
    return folder


def make_series_bundle(
    folder: Path,
    *,
    steps: int = 15,
    channels: Sequence[str] = FORCES,
    names: Sequence[str] = ("collision", "normal", "obstruction"),
    units: Sequence[str] = (),
    kind: Literal["classes", "values"] = "classes",
    name: str = "robot",
    title: str = "Robot failures",
    question: str = "What happened to the robot?",
    samples: Sequence[Sample] | None = None,
    serve: ServeSettings | None = None,
    seed: int = 0,
) -> Path:
    """A bundle of a model of series: linear in the window's numbers. Two samples, one by rows and one by channels."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = SeriesSpec(steps=steps, channels=tuple(channels))
    save_graph(
        folder / "model.onnx", spec.shape, len(names), kind=kind, seed=seed, element="float32", scale=0.05
    )  # fmt: skip
    if samples is None:
        rows, by_name = window(1, spec), window(2, spec)
        samples = (
            Sample(name="By rows", body={"series": rows.tolist()}),
            Sample(name="By channels", body={"series": {c: by_name[:, i].tolist() for i, c in enumerate(channels)}}),
        )
    _write(
        folder, window(0, spec), spec, names=names, modality="series", kind=kind, units=units, name=name, title=title,
        question=question, samples=samples, serve=serve,
    )  # fmt: skip
    return folder


def window(seed: int, spec: SeriesSpec) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A made-up recording (steps, channels): waves of different size for each channel, to two decimals."""
    rng = np.random.default_rng(seed)
    t = np.arange(spec.steps)[:, None]
    c = np.arange(len(spec.channels))[None]
    waves = 10.0 ** (c % 3) * np.sin(t / 3 + c + rng.uniform(0, 6)) + rng.normal(0, 0.3, spec.shape)
    return np.round(waves, 2).astype(np.float32)


def as_csv(x: np.ndarray[Any, Any], channels: Sequence[str] = FORCES) -> str:
    """A window as CSV with a header."""
    return "\n".join([",".join(channels), *(",".join(f"{v:.2f}" for v in row) for row in x)]) + "\n"


def _write(
    folder: Path, x: np.ndarray[Any, Any], spec: TextSpec | SeriesSpec, *, names: Sequence[str], modality: Any,
    kind: Any, units: Sequence[str], name: str, title: str, question: str, samples: Sequence[Sample],
    serve: ServeSettings | None,
) -> None:  # fmt: skip
    """Write bundle.json for an example `x` as the graph takes it, without its batch axis."""
    manifest = Manifest(
        name=name, version="test", title=title, question=question, modality=modality, kind=kind, names=tuple(names),
        units=tuple(units), preprocess=spec.to_dict(), data_hash="0" * 16,
        metrics={"accuracy": 0.93} if kind == "classes" else {"mae": 1.5}, backbone="linear",
        created="2026-01-01T00:00:00+00:00", samples=tuple(samples), serve=serve or ServeSettings(),
        example=Example(
            x_base64=base64.b64encode(x.tobytes()).decode(), shape=x.shape, dtype=bundle.DTYPES[modality],  # type: ignore[arg-type]
            y=tuple(float(v) for v in answer(folder / "model.onnx", x[None])[0]),
        ),
    )  # fmt: skip
    bundle.write(folder, manifest)


def _save_tokenizer(path: Path, size: int) -> None:
    """A tokenizer of bytes and whole words, as `tokenizers` writes it; id 0 is PAD."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["[PAD]"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([str(s.body) for s in ARTICLES], trainer)
    tokenizer.save(str(path))


def save_text_graph(path: Path, ids: int, outputs: int, *, seed: int = 0) -> None:
    """int32 (B, n) "x", 0 for nothing, to float32 (B, outputs) "y": softmax of the embeddings' mean."""
    from onnx import TensorProto, helper

    rng = np.random.default_rng(seed)
    weights = {
        "table": (rng.standard_normal((ids, outputs)) * 4).astype(np.float32),
        "pad": np.zeros((), np.int32),
        "last": np.array([2], np.int64),
        "along": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Gather", ["table", "x"], ["embedded"]),
        helper.make_node("Equal", ["x", "pad"], ["is_pad"]),
        helper.make_node("Not", ["is_pad"], ["is_there"]),
        helper.make_node("Cast", ["is_there"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["wide"]),
        helper.make_node("Mul", ["embedded", "wide"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "along"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["wide", "along"], ["count"], keepdims=0),
        helper.make_node("Div", ["sum", "count"], ["mean"]),
        helper.make_node("Softmax", ["mean"], ["y"], axis=-1),
    ]
    _save(path, nodes, weights, TensorProto.INT32, ["B", "n"], outputs)


def save_graph(
    path: Path,
    shape: Sequence[int],
    outputs: int,
    *,
    kind: Literal["classes", "values"] = "classes",
    seed: int = 0,
    work: int = 0,
    element: Literal["uint8", "float32"] = "uint8",
    scale: float = 0.0,
    flat: bool = False,
) -> None:
    """`element` (B, *shape) "x" to float32 (B, outputs) "y": flat(x) W + b, and a softmax for classes.

    `scale` is the weights' spread; 0 suits bytes. `flat`: they are all 0, and every answer is the same.
    """
    from onnx import TensorProto, helper

    rng = np.random.default_rng(seed)
    inputs = int(np.prod(shape))
    scale = scale or (3.0 if kind == "classes" else 1.0) / (255.0 * np.sqrt(inputs))
    weights = {
        "weight": (rng.standard_normal((inputs, outputs)) * scale * (not flat)).astype(np.float32),
        "bias": (rng.standard_normal(outputs) * 0.1 * (not flat)).astype(np.float32),
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
    kinds = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT}
    _save(path, nodes, weights, kinds[element], ["B", *shape], outputs)


def _save(
    path: Path, nodes: Any, weights: dict[str, np.ndarray[Any, Any]], element: int, shape: Any, outputs: int
) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("x", element, shape)],
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
    """What the graph itself says to a batch."""
    import onnxruntime as ort

    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    y: np.ndarray[Any, Any] = session.run(["y"], {"x": x})[0]
    return y
