"""A profiler that Lightning's Trainer carries: where each second of a step goes, and which operations take it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Generator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from pytorch_lightning.profilers import Profiler
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from proj.train.profile import BETWEEN, NEXT, hook, quiet

SECTIONS = {
    "input": "waiting for batches, and bringing them to the device",
    "augmentation": "random changes to batches, and pixels from uint8 to what the network sees",
    "forward": "the network and the loss",
    "backward": "gradients",
    "optimizer": "the step of the weights, clipping, learning rate",
    "validation": "between epochs: the validation split, scores",
    "checkpoints": "saving weights, as far as training waits for it",
    "callbacks": "journal, logging and other callbacks",
    "loop": "Lightning's own loop",
    "idle": "the main thread waits: for other threads, or because other programs have the cores",
}
INPUT = {"train_dataloader_next", "batch_to_device", "on_before_batch_transfer", "transfer_batch_to_device",
         "on_after_batch_transfer"}  # fmt: skip
OPTIMIZER = {"optimizer_step", "optimizer_zero_grad", "configure_gradient_clipping", "lr_scheduler_step"}
COMPUTING = {"augmentation", "forward", "backward", "optimizer", "validation"}
LEAST_STEPS = 2  # that are timed, however long they take


class Enough(Exception):
    """All has been seen: training ends here."""


@dataclass
class Spent:
    """Of one part of the loop, without the parts inside it."""

    calls: int = 0
    seconds: float = 0.0
    idle_s: float = 0.0  # of these the main thread computed nothing


@dataclass(frozen=True)
class Operation:
    """One kind of operation on inputs of one shape; `kind`: depthwise, convolution, matmul or other."""

    name: str
    shapes: str
    kind: str
    calls: float  # a step
    seconds: float  # a step, without operations inside it
    share: float  # of all operations' time


@dataclass
class Seen:
    """`first`: the steps that came before the timed ones. `cpu_s`: of all threads."""

    first: int = 0
    steps: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    actions: dict[tuple[str, str], Spent] = field(default_factory=lambda: defaultdict(Spent))  # by section, name
    action_steps: int = 0
    epoch_ends: int = 0
    operations: list[Operation] = field(default_factory=list)
    device_s: float = 0.0  # a step, of all operations on an accelerator
    flops: int = 0  # of one step
    flops_at: int = 0  # which step that was

    def shares(self) -> dict[str, float]:
        """Of the time of the steps, by section; they add up to one."""
        spent = dict.fromkeys(SECTIONS, 0.0)
        for (section, _), s in self.actions.items():
            idle = min(max(s.idle_s, 0.0), s.seconds) if section in COMPUTING else 0.0
            spent[section] += s.seconds - idle
            spent["idle"] += idle
        total = sum(spent.values()) or 1.0
        return {k: v / total for k, v in spent.items()}


class Watch(Profiler):
    """Watches a training step by step and ends it by raising Enough.

    First some steps to warm up; then `steps` that are only counted, which gives the true speed; as many in which every
    part of Lightning's loop is timed; a few under torch's own profiler; one whose FLOPs are counted.
    """

    def __init__(
        self, steps: int, kind: str, *, compiled: bool, limit_s: float, warmup: int = 5, traced: int = 3
    ) -> None:
        """`kind`: cpu, cuda or mps. `limit_s`: of all of it, nearly; a first step that compiles comes on top."""
        super().__init__()
        quiet()
        self.seen = Seen()
        self.kind, self.compiled, self.limit_s = kind, compiled, limit_s
        self.timing = self.between = False
        self.stack: list[str] = []
        self.at = self.at_cpu = 0.0
        self.parts = self._parts(steps, warmup, traced)

    def _parts(self, steps: int, warmup: int, traced: int) -> Generator[None, None, None]:
        """What is done in which steps; goes on at the begin of each."""
        seen, limit = self.seen, self.limit_s
        yield  # the first step compiles, and sets up what stays
        seen.first = 1 + (yield from self._some(warmup, limit / 6, least=0))
        start, cpu = time.perf_counter(), time.process_time()
        seen.steps = yield from self._some(steps, limit / 3)
        self._wait()
        seen.seconds, seen.cpu_s = time.perf_counter() - start, time.process_time() - cpu
        self._time(True)
        seen.action_steps = yield from self._some(steps, limit / 3)
        self._time(False)
        with torch.profiler.profile(record_shapes=True) as recorded:
            count = yield from self._some(traced, limit / 6, least=1)
            self._wait()
        seen.operations, seen.device_s = operations(recorded, count, self.kind)
        seen.flops_at = seen.first + seen.steps + seen.action_steps + count
        # What is compiled is not seen; asked for only then, since it loads the compiler.
        eager = torch.compiler.set_stance("force_eager") if self.compiled else nullcontext()
        own = {torch.ops.aten.convolution_backward: _gradients_of_convolution}
        with eager, FlopCounterMode(display=False, custom_mapping=own) as counter:
            yield
        seen.flops = counter.get_total_flops()
        raise Enough

    def _some(self, count: int, limit_s: float, *, least: int = LEAST_STEPS) -> Generator[None, None, int]:
        start, n = time.perf_counter(), 0
        while n < count and (n < least or time.perf_counter() - start < limit_s):
            yield
            n += 1
        return n

    def _wait(self) -> None:
        if self.kind != "cpu":
            torch.accelerator.synchronize()

    def _time(self, on: bool) -> None:
        self.timing, self.between = on, False
        self.stack.clear()
        self.at, self.at_cpu = time.perf_counter(), time.thread_time()

    def start(self, action_name: str) -> None:
        if action_name.endswith(NEXT):
            if self.timing:
                self._charge()
                self.seen.epoch_ends += self.between
                self.between = False
            next(self.parts)
        if not self.timing:
            return
        self._charge()
        if hook(action_name) in BETWEEN:
            self.between = True
        self.stack.append(action_name)
        self.seen.actions[section(action_name, self.between), action_name].calls += 1
        self._resume()

    def stop(self, action_name: str) -> None:
        if not self.timing or not self.stack or self.stack[-1] != action_name:
            return  # it had begun before
        if self.kind != "cpu" and section(action_name, self.between) in COMPUTING:
            self._wait()
        self._charge()
        self.stack.pop()
        self._resume()

    def _charge(self) -> None:
        """The time since the last event belongs to the innermost part."""
        now, cpu = time.perf_counter(), time.thread_time()
        name = self.stack[-1] if self.stack else ""
        spent = self.seen.actions[section(name, self.between), name]
        spent.seconds += now - self.at
        spent.idle_s += (now - self.at) - (cpu - self.at_cpu)
        self.at, self.at_cpu = now, cpu

    def _resume(self) -> None:
        """What the watching itself took is nobody's."""
        self.at, self.at_cpu = time.perf_counter(), time.thread_time()


def _gradients_of_convolution(grad: Any, x: Any, w: Any, *rest: Any, out_shape: Any = None) -> int:  # noqa: ARG001
    """Each of both gradients is as much work as the convolution; torch's own count takes groups for channels.

    `rest`: bias, stride, padding, dilation, transposed, output padding, groups, which gradients are wanted.
    """
    transposed, wanted = rest[4], rest[7]
    return int(conv_flop_count(x, w, grad, transposed)) * (int(wanted[0]) + int(wanted[1]))


def section(action: str, between: bool) -> str:
    """Which of SECTIONS a part of Lightning's loop belongs to. `between`: after an epoch's last batch."""
    name = hook(action)
    if name == "save_checkpoint" or "Checkpoint" in action or action.startswith("[Callback]Keeper"):
        return "checkpoints"
    if between:
        return "validation"
    if name in INPUT:
        return "input"
    if name == "augment":
        return "augmentation"
    if name == "training_step":
        return "forward"
    if name == "backward":
        return "backward"
    if name in OPTIMIZER:
        return "optimizer"
    return "callbacks" if action.startswith(("[Callback]", "[LightningModule]")) else "loop"


def operations(recorded: torch.profiler.profile, steps: int, kind: str) -> tuple[list[Operation], float]:
    """All operations of the recorded `steps`, the longest first, and their seconds a step.

    On an accelerator: by the kernels that each began; those that no operation began are together.
    """
    each = recorded.key_averages(group_by_input_shape=True)
    spent, total = _on_cpu(each) if kind == "cpu" else _on_device(each)
    n = max(1, steps)
    found = [
        Operation(
            _name(e.key), _shown(e.input_shapes), operation_kind(e.key, e.input_shapes), e.count / n, s / n, s / total
        )
        for e, s in spent
        if s > 0
    ]
    rest = total - sum(s for _, s in spent)
    if rest > total / 1000:
        found.append(Operation("kernels of no operation", "", "other", 0.0, rest / n, rest / total))
    return sorted(found, key=lambda o: -o.seconds), total / n


def _on_cpu(each: Any) -> tuple[list[tuple[Any, float]], float]:
    """The profiler's events with their seconds, and the sum."""
    spent = [(e, e.self_cpu_time_total / 1e6) for e in each]
    return spent, sum(s for _, s in spent)


def _on_device(each: Any) -> tuple[list[tuple[Any, float]], float]:
    """Likewise. Kernels are events too, whose sum counts; so are spans with a name, which have whole steps in them."""
    named = [e for e in each if not e.is_user_annotation]
    here = torch.autograd.DeviceType.CPU  # type: ignore[attr-defined]
    spent = [(e, e.self_device_time_total / 1e6) for e in named if e.device_type == here]
    return spent, sum(e.self_device_time_total for e in named if e.device_type != here) / 1e6


def _name(key: str) -> str:
    """Lightning runs forward and backward inside the optimizer's step: what is left of that is Python."""
    if key.startswith("Optimizer.step"):
        return "Python"
    return "compiled graph" if "CompiledFxGraph" in key else key.removeprefix("aten::")


def operation_kind(name: str, shapes: Any) -> str:
    """A convolution is depthwise where each channel has a kernel of its own: weights (channels, 1, ...)."""
    if "conv" in name:
        sized = [s for s in shapes or [] if isinstance(s, list | tuple) and len(s) >= 3]
        x, w = sized[-2:] if len(sized) >= 2 else ([0, 0], [0, 0])
        return "depthwise" if "depthwise" in name or (w[1] == 1 and x[1] > 1) else "convolution"
    multiplies = ("mm", "linear", "matmul", "scaled_dot_product", "attention", "gemm")
    return "matmul" if any(m in name for m in multiplies) else "other"


def _shown(shapes: Any) -> str:
    """The shapes of the tensors among an operation's inputs, three at most: "32x16x112x112, 16x1x3x3"."""
    sized = [s for s in shapes or [] if isinstance(s, list | tuple) and s and all(isinstance(n, int) for n in s)]
    return ", ".join("x".join(map(str, s)) for s in sized[:3])
