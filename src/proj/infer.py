"""Decode, run, encode on a bundle: `predict`, the export's parity check and the server all answer through these."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
from loguru import logger

from proj import bundle, engines
from proj.bundle import Manifest
from proj.engines import Engine
from proj.errors import BundleError, ExampleError, InputError
from proj.preprocess import series, text, views
from proj.preprocess.photo import Pixels
from proj.preprocess.spec import PAD, ImageSpec, SeriesSpec, Spec

RTOL, ATOL = 1e-3, 1e-5  # ONNX Runtime against torch, on probabilities (course module M25's own tolerance)
BF16_CLASSES, BF16_VALUES = 0.05, 0.02  # of a probability; of a value's largest

Array = np.ndarray[Any, np.dtype[Any]]
# A picture, or several views of one thing; a text or its fields; a table of measurements.
Source = bytes | Path | str | Pixels | Sequence[Any] | Mapping[str, Any]


@dataclass(frozen=True)
class Model:
    """A loaded bundle. `tokenizer` is a text's own. Safe to call from several threads."""

    manifest: Manifest
    engine: Engine
    spec: Spec
    tokenizer: Any = None

    def share(self, waiting: int, callers: int, best: int = 0) -> int:
        """How many inputs a call of `run` should take while `waiting` more wait for all `callers`: its share.

        At most `best` of them; 0 is the engine's own number.
        """
        if waiting < self.engine.least_waiting * callers:
            return 1
        return min(best or self.engine.best_batch, 1 + waiting // callers)


def load(
    folder: Path,
    *,
    threads: int = 1,
    callers: int = 1,
    engine: engines.Name = "onnxruntime",
    precision: engines.Precision = "fp32",
    checked: bool = False,
) -> Model:
    """Load a bundle and prove it: on its own example, and where ONNX Runtime does not run it, against that too.

    `threads` work on one answer; 0 is the engine's own choice. `callers` threads may ask at once. `checked`:
    `bundle.verify` and `bundle.check_graph` said yes to these very files before, and are not asked again.
    Raises BundleError when the bundle is broken, is not safe, or does not give its example's answer; what
    `engines.check` raises.
    """
    manifest = bundle.read(folder)
    graph = folder / bundle.GRAPH
    if not checked:
        bundle.check_graph(graph)
    chosen = engines.make(graph, engine=engine, precision=precision, threads=threads, callers=callers)
    model = Model(manifest, chosen, manifest.spec, _tokenizer(folder / bundle.TOKENIZER))
    reference = chosen if engine == "onnxruntime" else engines.make(graph)
    _prove(manifest, reference, folder)
    if chosen is not reference:
        _compare(model, reference, precision)
    if not checked:
        bundle.verify(folder)  # last: what is wrong with a file says more than that it is another one
    return model


def _tokenizer(path: Path) -> Any:
    if not path.is_file():
        return None
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(os.fspath(path))
    except Exception as e:  # its Rust side raises plain Exception
        raise BundleError(f"{path} is not a tokenizer", found=str(e)) from None


def _prove(manifest: Manifest, reference: Engine, folder: Path) -> None:
    want = np.asarray([manifest.example.y], np.float32)
    try:
        got = reference.run(manifest.example.array())
    except Exception as e:  # whatever a graph that does not fit its manifest makes its engine raise
        raise ExampleError(f"{folder} fails on its own example", found=engines.first_line(e)) from None
    if got.shape != want.shape or apart(manifest.kind, got, want, "fp32"):
        raise ExampleError(
            f"{folder} does not give its own example's answer",
            found=f"the model says {np.round(got[0], 4).tolist()}, bundle.json {np.round(want[0], 4).tolist()}",
            next="model.onnx and bundle.json are not of one export: `proj export RUN` makes both",
        )


def _compare(model: Model, reference: Engine, precision: engines.Precision) -> None:
    """Raise ExampleError where the engine's answers to the example and the samples are not ONNX Runtime's."""
    xs = [model.manifest.example.array()[0], *(_decoded(model, s.body) for s in model.manifest.samples)]
    want = np.concatenate([reference.run(x[None]) for x in xs])
    try:
        got = np.concatenate([model.engine.run(x[None]) for x in xs])
        why = apart(model.manifest.kind, got, want, precision)
    except Exception as e:  # an engine that takes the graph, but cannot run it
        got, why = want, engines.first_line(e)
    who, name = model.engine.name, model.manifest.model
    if why:
        raise ExampleError(
            f"{who} does not give ONNX Runtime's answers to {name}",
            found=f"{why}, on its example and {len(xs) - 1} samples",
            next="choose engine=onnxruntime",
        )
    off = float(np.abs(got - want).max())
    logger.info("{}: {} agrees with ONNX Runtime on {} inputs, largest difference {:.1e}", name, who, len(xs), off)


def _decoded(model: Model, body: Mapping[str, Any]) -> Array:
    """A sample's body, as `POST /predict` takes it, to what the graph takes."""
    content: Any = body
    try:
        if isinstance(model.spec, ImageSpec):
            content = [base64.b64decode(v, validate=True) for v in body.get("views") or [body["image"]]]
        elif isinstance(model.spec, SeriesSpec):
            content = body["series"]
        return decode(model, content)
    except (InputError, KeyError, TypeError, ValueError) as e:
        raise ExampleError("a sample in bundle.json cannot be read", found=f"{type(e).__name__}: {e}") from None


def apart(kind: Literal["classes", "values"], got: Array, want: Array, precision: engines.Precision) -> str:
    """How answers (B, names) are further from `want` than `precision` allows; "" where they are not.

    fp32: RTOL and ATOL. bf16: all labels the same and no probability off by more than 0.05; values by no more than
    2 % of the largest that their name has in `want`.
    """
    off = np.abs(got - want)
    if not np.isfinite(got).all():
        return "it gives numbers that are none"
    if precision == "fp32":
        return "" if np.allclose(got, want, rtol=RTOL, atol=ATOL) else f"they differ by up to {off.max():.2e}"
    if kind == "values":
        share = float((off / np.maximum(np.abs(want).max(0), ATOL)).max())
        return "" if share <= BF16_VALUES else f"a value is off by {share:.1%}, {BF16_VALUES:.0%} is allowed"
    changed = int((got.argmax(1) != want.argmax(1)).sum())
    if changed:
        return f"{changed} of {len(want)} labels are others"
    worst = float(off.max())
    return "" if worst <= BF16_CLASSES else f"a probability is off by {worst:.3f}, {BF16_CLASSES} is allowed"


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
    if len(xs) == 1:
        return xs[0][None]
    longest = max(len(x) for x in xs)
    if xs[0].ndim > 1 or all(len(x) == longest for x in xs):
        return np.stack(xs)
    out = np.full((len(xs), longest), PAD, xs[0].dtype)
    for row, x in zip(out, xs, strict=True):
        row[: len(x)] = x
    return out


def run(model: Model, x: Array) -> Array:
    """`x`: what `batch` makes. Returns float32 (B, len(names)): probabilities, or values in their units."""
    return model.engine.run(x)


def encode(model: Model, y: Array, name: str, top: int = 0) -> dict[str, Any]:
    """One row of `run`'s output to the one form of answer. `name` is the input's, as the caller knows it.

    `top` leaves only the most probable classes, best first; 0 leaves all, in the model's order. Numbers are the
    shortest decimals that are the float32 ones; a number that is none is None.
    """
    m = model.manifest
    # As JSON and back: a twentieth of the time that as many float(str(v)) take.
    shortest: list[Any] = orjson.loads(orjson.dumps(np.ascontiguousarray(y), option=orjson.OPT_SERIALIZE_NUMPY))
    answer: dict[str, Any] = {"input": name}
    if m.kind == "classes":
        best = int(y.argmax())
        sure = y[best] >= m.serve.threshold
        answer["label"] = m.names[best] if sure else None
        if not sure:
            answer["not_sure"] = True
        answer["confidence"] = shortest[best]
        if top:
            order = np.argsort(-y, kind="stable")[:top].tolist()
            answer["probabilities"] = {m.names[i]: shortest[i] for i in order}
        else:
            answer["probabilities"] = dict(zip(m.names, shortest, strict=True))
    else:
        units = zip(m.names, shortest, m.units, strict=True)
        answer["values"] = {n: {"value": v, "unit": u} for n, v, u in units}
    answer["model"] = m.model
    if m.warning:
        answer["warning"] = m.warning
    return answer
