"""What runs a bundle's graph: ONNX Runtime, or OpenVINO where it was chosen.

An engine has `name` ("onnxruntime fp32", "openvino bf16"), `best_batch` (how many waiting inputs one call should take),
`least_waiting` (only while so many wait for each caller) and `run(x) -> y`. Several threads may call that at once: each
call works in its caller's thread, and as many as `make` was told (`callers`) are answered side by side.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from proj.errors import BundleError, MissingExtra, UsageError

Array = np.ndarray[Any, np.dtype[Any]]
Name = Literal["onnxruntime", "openvino"]
Precision = Literal["fp32", "bf16"]

CPUINFO = Path("/proc/cpuinfo")
BATCHES = (1, 2, 4, 8)  # the shapes that OpenVINO is given where batches gain; a batch is filled up to one of them


class Engine(Protocol):
    """`x` is what `infer.batch` makes; `run` returns float32 (B, names)."""

    name: str
    best_batch: int
    least_waiting: int

    def run(self, x: Array) -> Array: ...


def check(engine: Name, precision: Precision) -> None:
    """Can this machine do what was chosen? Imports neither engine.

    Raises MissingExtra (no OpenVINO), UsageError (a precision that the engine or this CPU does not have).
    """
    if engine == "openvino" and find_spec("openvino") is None:
        raise MissingExtra(
            "OpenVINO is not installed",
            found="engine=openvino needs it",
            next="`uv sync --extra openvino` in this project adds it, or choose engine=onnxruntime",
        )
    if precision == "fp32":
        return
    if engine == "onnxruntime":
        raise UsageError(
            f"ONNX Runtime has no precision={precision}",
            found="on a CPU it is fp32",
            next="choose engine=openvino, or precision=fp32",
        )
    if not has_bf16():
        raise UsageError(
            "this CPU has no bf16",
            found="neither avx512_bf16 nor amx_bf16 is among its flags",
            next="choose precision=fp32",
        )


def has_cpu(flag: str) -> bool:
    """Has this machine's CPU that flag? Where the system does not say (Linux does), no."""
    try:
        return flag in CPUINFO.read_text(encoding="ascii", errors="replace").split()
    except OSError:
        return False


def has_bf16() -> bool:
    """Does this machine's CPU multiply bf16, by AVX512-BF16 or AMX?"""
    return has_cpu("avx512_bf16") or has_cpu("amx_bf16")


def make(
    path: Path, *, engine: Name = "onnxruntime", precision: Precision = "fp32", threads: int = 1, callers: int = 1
) -> Engine:
    """Load the graph. `threads` work on one call; 0 is the engine's own choice. `callers` threads may call at once.

    Raises BundleError (a graph that cannot be loaded, or has other inputs and outputs than x and y), and what `check`
    raises.
    """
    check(engine, precision)
    return OpenVino(path, precision, threads, callers) if engine == "openvino" else OnnxRuntime(path, threads)


def onnxruntime() -> Any:
    """The package. Since 1.31 it would send its makers telemetry, from a thread that begins with the import."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime as ort

    return ort


class OnnxRuntime:
    """One session for all threads.

    Two inputs of fixed shape at once take 4 to 10 % less time each where weights come from a slow cache (a Xeon; on an
    EPYC nothing, and eight gain no more), and the first of them waits for the second: only while many wait.
    Its memory arena stays on: two threads took 40 MB more without it, and no call was faster. Idle threads do not
    spin. Full optimisation is the default: without its layout of channels in blocks the same graph took 3.5 times as
    long (mobilenetv3_small_100, 1.1 and 3.9 ms).
    """

    least_waiting = 4

    def __init__(self, path: Path, threads: int) -> None:
        ort = onnxruntime()
        self.name = "onnxruntime fp32"
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
        except Exception as e:  # ONNX Runtime's error classes are private to its C++ binding
            raise _cannot(path, e) from None
        _check_names(path, (i.name for i in self._session.get_inputs()), (o.name for o in self._session.get_outputs()))
        fixed = all(isinstance(d, int) for d in self._session.get_inputs()[0].shape[1:])
        self.best_batch = 2 if fixed else 1

    def run(self, x: Array) -> Array:
        y: Array = self._session.run(["y"], {"x": x})[0]
        return y


class OpenVino:
    """Compiled for fixed shapes where inputs have one, since they are much faster.

    fp32 gains nothing by batches, nor does bf16 without AMX: such a batch is answered one by one. What is compiled
    answers one call at a time, in the caller's own thread, so there is a copy for each of `callers`: two threads that
    shared one gave 414 images/s where two copies gave 992 (mobilenetv3_small_100, fp32, two cores). A copy for batches
    of up to 8 takes some 50 MB.
    """

    least_waiting = 1

    def __init__(self, path: Path, precision: Precision, threads: int, callers: int) -> None:
        self.name = f"openvino {precision}"
        self._own = threading.local()
        self._turn = itertools.count()
        batches = BATCHES if precision == "bf16" and has_cpu("amx_bf16") else (1,)
        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
            "NUM_STREAMS": 1,  # with one stream and one thread the caller's own thread does the work
            **({"INFERENCE_NUM_THREADS": threads} if threads else {}),
            "ENABLE_CPU_PINNING": False,
        }
        try:
            with ThreadPoolExecutor(callers) as pool:
                self._copies = [*pool.map(lambda _: _compiled(path, batches, options), range(callers))]
        except RuntimeError as e:
            raise _cannot(path, e) from None
        self.best_batch = max(1, *self._copies[0].requests)

    def run(self, x: Array) -> Array:
        copy = self._own.__dict__.get("copy")
        if copy is None:
            copy = self._own.copy = self._copies[next(self._turn) % len(self._copies)]
        return copy.run(x)


class _Copy:
    """A graph that is compiled for some sizes of a batch; by -1 for any."""

    def __init__(self, compiled: Mapping[int, Any]) -> None:
        self.requests = {n: c.create_infer_request() for n, c in compiled.items()}
        self._lock = threading.Lock()  # more callers than copies take turns

    def run(self, x: Array) -> Array:
        rows, most = len(x), max(self.requests)
        with self._lock:
            if most == -1:
                return self._infer(-1, x)
            if rows in self.requests:
                return self._infer(rows, x)
            return np.concatenate([self._filled_up(x[i : i + most]) for i in range(0, rows, most)])

    def _filled_up(self, x: Array) -> Array:
        """Answers of at most as many rows as the largest batch, which the next larger one has room for."""
        n = next(n for n in self.requests if n >= len(x))
        full = x if n == len(x) else np.concatenate([x, np.zeros((n - len(x), *x.shape[1:]), x.dtype)])
        return self._infer(n, full)[: len(x)]

    def _infer(self, n: int, x: Array) -> Array:
        y: Array = self.requests[n].infer({0: x}, share_inputs=True)[0]
        return y


def _compiled(path: Path, batches: Sequence[int], options: Mapping[str, Any]) -> _Copy:
    """Raises RuntimeError where OpenVINO does not take the graph, BundleError."""
    import openvino as ov

    core = ov.Core()
    model = core.read_model(os.fspath(path))
    _check_names(path, (i.any_name for i in model.inputs), (o.any_name for o in model.outputs))
    shape = [d.get_length() if d.is_static else -1 for d in model.input(0).partial_shape][1:]
    found = {}
    for n in batches if -1 not in shape else (-1,):
        model.reshape({"x": [n, *shape]})
        found[n] = core.compile_model(model, "CPU", dict(options))
    return _Copy(found)


def _check_names(path: Path, inputs: Any, outputs: Any) -> None:
    if [*inputs] != ["x"] or [*outputs] != ["y"]:
        raise BundleError(f"{path} has other inputs and outputs than x and y")


def _cannot(path: Path, e: Exception) -> BundleError:
    return BundleError(f"{path} cannot be loaded", found=first_line(e))


def first_line(e: Exception) -> str:
    """Of what an engine says about a graph, which begins with lines of its own sources and goes on with its stack."""
    lines = (line.strip() for line in str(e).splitlines())
    return next((line for line in lines if line and not line.startswith("Exception from ")), type(e).__name__)
