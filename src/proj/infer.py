"""Decode, run, encode on a bundle: `predict`, the export's parity check and the server all answer through these."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from proj import bundle, preprocess
from proj.bundle import Manifest
from proj.errors import BundleError

RTOL, ATOL = 1e-3, 1e-5  # ONNX Runtime against torch, on probabilities (course module M25's own tolerance)

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Model:
    """A loaded bundle: `manifest` and an ONNX Runtime session. Safe to call from several threads."""

    manifest: Manifest
    session: Any


def load(folder: Path, *, threads: int = 0) -> Model:
    """Load a bundle and prove it on its own example. `threads` per answer; 0 is ONNX Runtime's own choice.

    Raises BundleError when the bundle is broken, is not safe, or does not give its example's answer.
    """
    manifest = bundle.read(folder)
    bundle.check_graph(folder / "model.onnx")
    model = Model(manifest, _session(folder / "model.onnx", threads))
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


def decode(model: Model, source: bytes | Path | preprocess.Pixels, *, max_pixels: int | None = None) -> Array:
    """One input to the array that the graph takes, without the batch axis. Raises InputError and its kinds."""
    limit = model.manifest.serve.max_pixels if max_pixels is None else max_pixels
    return preprocess.image(source, model.manifest.spec, max_pixels=limit)


def run(model: Model, x: Array) -> Array:
    """`x`: a batch (B, H, W, C), uint8. Returns float32 (B, len(names)): probabilities, or values in their units."""
    y: Array = model.session.run(["y"], {"x": x})[0]
    return y


def encode(model: Model, y: Array, name: str) -> dict[str, Any]:
    """One row of `run`'s output to the one form of answer. `name` is the input's, as the caller knows it."""
    m = model.manifest
    answer: dict[str, Any] = {"input": name}
    if m.kind == "classes":
        best = int(y.argmax())
        answer["label"] = m.names[best]
        answer["confidence"] = float(y[best])
        answer["probabilities"] = {n: float(p) for n, p in zip(m.names, y, strict=True)}
    else:
        answer["values"] = {n: {"value": float(v), "unit": u} for n, v, u in zip(m.names, y, m.units, strict=True)}
    answer["model"] = m.model
    if m.warning:
        answer["warning"] = m.warning
    return answer
