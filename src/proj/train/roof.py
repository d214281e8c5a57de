"""How fast this machine can compute at all: what achieved speeds are held against."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

SIDE = {"cpu": 1536, "cuda": 8192, "mps": 4096}  # of the matrices; 1536: 7 GFLOP, 9 MB each in float32
PLANES = {"cpu": 8, "cuda": 256, "mps": 64}  # pictures that the convolution sees at once
CHANNELS, PIXELS, KERNEL = 128, 56, 3


@dataclass(frozen=True)
class Roof:
    """FLOP/s (a multiplication and an addition are two) of the best of many runs."""

    matmul: float
    convolution: float


def roof(kind: str, precision: str, threads: int, *, seconds: float = 1.0) -> Roof:
    """Time a large matrix product and a large convolution, `seconds` each, as a training would compute them.

    `kind`: cpu, cuda or mps. `precision`: as Lightning spells it ("bf16-mixed": in bfloat16). `threads`: on the CPU.
    """
    dtype = torch.bfloat16 if precision.startswith("bf16") else torch.float32
    at: dict[str, Any] = {"device": kind, "dtype": dtype}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            n = SIDE[kind]
            a, b = torch.rand(n, n, **at), torch.rand(n, n, **at)
            matmul = 2 * n**3 / _best_s(lambda: a @ b, kind, seconds)
            x = torch.rand(PLANES[kind], CHANNELS, PIXELS, PIXELS, **at).contiguous(memory_format=torch.channels_last)
            w = torch.rand(CHANNELS, CHANNELS, KERNEL, KERNEL, **at).contiguous(memory_format=torch.channels_last)
            work = 2 * x.numel() * CHANNELS * KERNEL**2
            convolution = work / _best_s(lambda: F.conv2d(x, w, padding=KERNEL // 2), kind, seconds)
    finally:
        torch.set_num_threads(before)
    return Roof(matmul, convolution)


def _best_s(call: Callable[[], Any], kind: str, seconds: float) -> float:
    """The shortest of as many calls as fit, at least three: others on the machine only ever make it longer."""
    took: list[float] = []
    started = time.perf_counter()
    while len(took) < 3 or time.perf_counter() - started < seconds:
        start = time.perf_counter()
        call()
        if kind != "cpu":
            torch.accelerator.synchronize()
        took.append(time.perf_counter() - start)
    return min(took)
