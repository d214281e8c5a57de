"""Milliseconds that engines need for a backbone's exported graph, as torch writes it and as `proj.train.graph` does.

python bench/graph.py [BACKBONE ...] [--size 224] [--rounds 30]

Random weights, one picture, one thread; the two graphs take turns. "ratio" is the median of the turns' ratios, below
1 where the rewritten graph is faster; "off" the largest difference of the two's answers, relative to the largest of
them. "onnxruntime without blocks" is ONNX Runtime as on a CPU for which it has no layout of channels in blocks.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnxruntime as ort
from torch import nn
from training_table import order

from proj import engines
from proj.config import Model
from proj.preprocess.spec import ImageSpec
from proj.train import export, graph, images

Array = np.ndarray[Any, np.dtype[Any]]
Run = Callable[[Array], Array]
CALLS = 5  # of a turn
BF16 = "openvino bf16"


class Features(nn.Module):
    """uint8 (B, H, W, 3) to the backbone's features, normalised as a run's are."""

    def __init__(self, backbone: str, size_px: int) -> None:
        super().__init__()
        spec = ImageSpec(height_px=size_px, width_px=size_px)
        self.encoder = images.ImageEncoder(Model(backbone=backbone), spec, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])

    def forward(self, x: Any) -> Any:
        return self.encoder(self.encoder.front(x))


def exported(net: nn.Module, x: Array, path: Path, *, rewrite: bool) -> Path:
    with mock.patch.object(graph, "rewrite", graph.rewrite if rewrite else lambda _: None):
        export._graph(net.eval(), x, path, free_length=False)
    return path


def without_blocks(path: Path) -> Run:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(["y"], {"x": x})[0]


ENGINES: dict[str, Callable[[Path], Run]] = {
    "onnxruntime": lambda path: engines.make(path).run,
    "onnxruntime without blocks": without_blocks,
    "openvino fp32": lambda path: engines.make(path, engine="openvino").run,
    BF16: lambda path: engines.make(path, engine="openvino", precision="bf16").run,
}


def turn_ms(run: Run, x: Array) -> float:
    start = time.perf_counter()
    for _ in range(CALLS):
        run(x)
    return 1000 * (time.perf_counter() - start) / CALLS


def compare(before: Run, after: Run, x: Array, rounds: int) -> str:
    a, b = before(x).copy(), after(x).copy()  # an engine may answer where it answered before
    took: dict[Run, list[float]] = {before: [], after: []}
    for i in range(rounds):
        for run in order([before, after], i):
            took[run].append(turn_ms(run, x))
    ratio = statistics.median(a / b for a, b in zip(took[after], took[before], strict=True))
    was, now = (statistics.median(took[run]) for run in (before, after))
    return f"{was:8.2f} {now:8.2f} {ratio:6.2f} {float(np.abs(a - b).max() / np.abs(a).max()):8.0e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbones", nargs="*", default=["mobilenetv3_small_100"])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    x = np.random.default_rng(0).integers(0, 256, (1, args.size, args.size, 3), dtype=np.uint8)
    print(f"{'backbone':24s} {'engine':26s} {'torch ms':>8s} {'ours ms':>8s} {'ratio':>6s} {'off':>8s}")
    with tempfile.TemporaryDirectory() as folder:
        for backbone in args.backbones:
            net = Features(backbone, args.size)
            before, after = (exported(net, x, Path(folder) / f"{r}.onnx", rewrite=r) for r in (False, True))
            for name, made in ENGINES.items():
                if name == BF16 and not engines.has_bf16():
                    continue
                print(f"{backbone:24s} {name:26s} {compare(made(before), made(after), x, args.rounds)}", flush=True)


if __name__ == "__main__":
    main()
