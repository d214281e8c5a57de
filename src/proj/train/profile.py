"""What `trainer.profiler` names: what took the time of a training, in its run's profile/.

simple     fit-simple.txt: how often each part of Lightning's loop ran, and how long it took
advanced   fit-advanced.txt: which Python functions each part called (cProfile); training takes twice as long
torch      operations.txt, a table of a few steps' operations; trace.json, the same for ui.perfetto.dev or chrome://tracing

The last is not Lightning's own, whose schedule breaks where an epoch's validation begins.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch
from pytorch_lightning.profilers import AdvancedProfiler, Profiler, SimpleProfiler

if TYPE_CHECKING:
    from pathlib import Path

NEXT = ".train_dataloader_next"  # Lightning asks for a batch: a step begins
# After an epoch's last batch one of these comes first.
BETWEEN = {"on_validation_model_zero_grad", "on_validation_model_eval", "on_validation_start", "on_train_epoch_end"}
FIRST, TRACED = 3, 3  # steps; one of a mid-sized network is a megabyte or two of trace
FUNCTIONS = 30  # of each part of the loop, the slowest
ROWS = 50


def profiler(kind: str, folder: Path) -> Profiler | None:
    """The profiler for `pl.Trainer(profiler=...)`: off | simple | advanced | torch. It writes under `folder`."""
    if kind == "off":
        return None
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "simple":
        return SimpleProfiler(folder, "simple")
    if kind == "advanced":
        return AdvancedProfiler(folder, "advanced", line_count_restriction=FUNCTIONS)
    return Trace(folder)


def hook(action: str) -> str:
    """The hook's own name: "training_step" of "[Strategy]SingleDeviceStrategy.training_step"."""
    return action.rpartition(".")[2]


def quiet() -> None:
    """Torch's profiler writes to stderr when it begins and ends, and an error where there is no GPU."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")


class Trace(Profiler):
    """The operations of TRACED steps from the FIRST on, or of as many as the epoch has left then."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        quiet()
        self.folder, self.step = folder, 0
        self.recorder: torch.profiler.profile | None = None
        self.parts: list[tuple[str, torch.profiler.record_function]] = []

    def start(self, action_name: str) -> None:
        if action_name.endswith(NEXT):
            self.step += 1
            if self.step == FIRST:
                self.recorder = torch.profiler.profile(record_shapes=True)
                self.recorder.start()
            elif self.step == FIRST + TRACED:
                self._write()
        elif hook(action_name) in BETWEEN:
            self._write()
        if self.recorder is not None:
            part = torch.profiler.record_function(action_name)
            part.__enter__()  # type: ignore[no-untyped-call]
            self.parts.append((action_name, part))

    def stop(self, action_name: str) -> None:
        if self.parts and self.parts[-1][0] == action_name:
            self.parts.pop()[1].__exit__(None, None, None)

    def teardown(self, stage: str | None) -> None:
        self._write()
        super().teardown(stage)

    def _write(self) -> None:
        recorder = getattr(self, "recorder", None)  # teardown comes even where __init__ was not done
        if recorder is None:
            return
        while self.parts:
            self.parts.pop()[1].__exit__(None, None, None)
        self.recorder = None
        recorder.stop()
        recorder.export_chrome_trace(str(self.folder / "trace.json"))
        key = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        table = recorder.key_averages(group_by_input_shape=True).table(sort_by=key, row_limit=ROWS)
        (self.folder / "operations.txt").write_text(table + "\n", encoding="utf-8")
