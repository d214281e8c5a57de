"""Decode, run, encode on a bundle: `predict`, the export's parity check and the server all answer through these."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from proj import bundle
from proj.bundle import Manifest
from proj.errors import BundleError
from proj.preprocess import series, text, views
from proj.preprocess.image import Pixels
from proj.preprocess.spec import PAD, ImageSpec, SeriesSpec, Spec

RTOL, ATOL = 1e-3, 1e-5  # ONNX Runtime against torch, on probabilities (course module M25's own tolerance)

Array = np.ndarray[Any, np.dtype[Any]]
# A picture, or several views of one thing; a text or its fields; a table of measurements.
Source = bytes | Path | str | Pixels | Sequence[Any] | Mapping[str, Any]


@dataclass(frozen=True)
class Model:
    """A loaded bundle. `session` is ONNX Runtime's, `tokenizer` a text's own. Safe to call from several threads."""

    manifest: Manifest
    session: Any
    spec: Spec
    tokenizer: Any = None


def load(folder: Path, *, threads: int = 0) -> Model:
    """Load a bundle and prove it on its own example. `threads` per answer; 0 is ONNX Runtime's own choice.

    Raises BundleError when the bundle is broken, is not safe, or does not give its example's answer.
    """
    manifest = bundle.read(folder)
    bundle.check_graph(folder / "model.onnx")
    session = _session(folder / "model.onnx", threads)
    model = Model(manifest, session, manifest.spec, _tokenizer(folder / bundle.TOKENIZER))
    _prove(model, folder)
    return model


def _session(path: Path, threads: int) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    except Exception as e:  # ONNX Runtime's error classes are private to its C++ binding
        raise BundleError(f"{path} cannot be loaded", found=str(e).splitlines()[0]) from None


def _tokenizer(path: Path) -> Any:
    if not path.is_file():
        return None
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(os.fspath(path))
    except Exception as e:  # its Rust side raises plain Exception
        raise BundleError(f"{path} is not a tokenizer", found=str(e)) from None


def _prove(model: Model, folder: Path) -> None:
    ins, outs = model.session.get_inputs(), model.session.get_outputs()
    if [i.name for i in ins] != ["x"] or [o.name for o in outs] != ["y"]:
        raise BundleError(f"{folder}/model.onnx has other inputs and outputs than x and y")
    want = np.asarray(model.manifest.example.y, np.float32)
    try:
        got = run(model, model.manifest.example.array())[0]
    except Exception as e:  # whatever a graph that does not fit its manifest makes ONNX Runtime raise
        raise BundleError(f"{folder} fails on its own example", found=str(e).splitlines()[0]) from None
    if got.shape != want.shape or not np.allclose(got, want, rtol=RTOL, atol=ATOL):
        raise BundleError(
            f"{folder} does not give its own example's answer",
            found=f"the model says {np.round(got, 4).tolist()}, bundle.json {np.round(want, 4).tolist()}",
            next="model.onnx and bundle.json are not of one export: `proj export RUN` makes both",
        )


def decode(model: Model, source: Source, *, max_pixels: int | None = None) -> Array:
    """One input to the array that the graph takes, without the batch axis. Raises InputError and its kinds."""
    spec: Any = model.spec
    given: Any = source
    if isinstance(spec, ImageSpec):
        limit = model.manifest.serve.max_pixels if max_pixels is None else max_pixels
        return views.decode(given, spec, max_pixels=limit)
    if isinstance(spec, SeriesSpec):
        return series.decode(given, spec)
    return text.ids(text.clean(given, spec), spec, model.tokenizer)


def batch(xs: Sequence[Array]) -> Array:
    """Inputs as one batch; shorter texts are filled up with PAD."""
    longest = max(len(x) for x in xs)
    if xs[0].ndim > 1 or all(len(x) == longest for x in xs):
        return np.stack(xs)
    out = np.full((len(xs), longest), PAD, xs[0].dtype)
    for row, x in zip(out, xs, strict=True):
        row[: len(x)] = x
    return out


def run(model: Model, x: Array) -> Array:
    """`x`: what `batch` makes. Returns float32 (B, len(names)): probabilities, or values in their units."""
    y: Array = model.session.run(["y"], {"x": x})[0]
    return y


def encode(model: Model, y: Array, name: str) -> dict[str, Any]:
    """One row of `run`'s output to the one form of answer. `name` is the input's, as the caller knows it."""
    m = model.manifest
    answer: dict[str, Any] = {"input": name}
    if m.kind == "classes":
        best = int(y.argmax())
        sure = float(y[best]) >= m.serve.threshold
        answer["label"] = m.names[best] if sure else None
        if not sure:
            answer["not_sure"] = True
        answer["confidence"] = float(y[best])
        answer["probabilities"] = {n: float(p) for n, p in zip(m.names, y, strict=True)}
    else:
        answer["values"] = {n: {"value": float(v), "unit": u} for n, v, u in zip(m.names, y, m.units, strict=True)}
    answer["model"] = m.model
    if m.warning:
        answer["warning"] = m.warning
    return answer
