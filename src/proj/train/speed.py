"""The fastest of workers, threads, precision and compilation, by a few steps of each.

What was timed is kept by machine, model and data, and is not timed again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from loguru import logger

from proj import config, runs
from proj.errors import CannotCompile
from proj.train import settle, trial

if TYPE_CHECKING:
    from proj.config import Config
    from proj.train.trial import Setting

FASTER = 0.95  # a choice is left only for one that takes less than this share of its time
STEPS = 12
COMPILED_STEPS = 30  # the first ones compile
HARMLESS = ("workers",)
CHANGING_BITS = ("threads", "precision", "compile")


def fastest(cfg: Config, s: Setting, wanted: str, kept: Path) -> dict[str, Any]:
    """{"chosen", "tried"} for `auto` or for one setting by name; from the earlier timings that are `kept`, if there."""
    names = (*HARMLESS, *(() if cfg.trainer.deterministic else CHANGING_BITS)) if wanted == "auto" else (wanted,)
    path = kept / f"{key(s, names)}.json"
    found: dict[str, Any] | None = runs.read_json(path, None)
    if found is not None:
        logger.info("tune: as timed before ({}); delete it to time anew", path.name)
        return found
    found = _search(s, names)
    kept.mkdir(parents=True, exist_ok=True)
    runs.write_json(path, found)
    return found


def _search(s: Setting, names: tuple[str, ...]) -> dict[str, Any]:
    """One setting after the other, each kept where it is clearly faster: {"chosen", "tried"}."""
    rows = min(s.cfg.trainer.batch_size, len(s.view.train))
    best_s = trial.step_s(s, steps=STEPS)
    tried = [{"setting": "as the rules say", "rows_per_s": round(rows / best_s, 1)}]
    logger.info("tune: {} rows/s as the rules say", tried[0]["rows_per_s"])
    for name in names:
        for value in choices(name, s):
            other = replace(s, cfg=_with(s.cfg, name, value))
            other = replace(other, device=settle.device(other.cfg))
            compiled = other.cfg.trainer.compile == "always"
            try:
                took = trial.step_s(other, steps=STEPS, warm_up=COMPILED_STEPS if compiled else trial.WARM_UP)
            except CannotCompile as e:
                logger.info("tune: trainer.{}={} left out: {}", name, value, e)
                continue
            tried.append({"setting": f"trainer.{name}={value}", "rows_per_s": round(rows / took, 1)})
            better = took < FASTER * best_s
            logger.info("tune: {} rows/s with trainer.{}={}{}", tried[-1]["rows_per_s"], name, value, ", kept" * better)
            if better:
                s, best_s = other, took
    return {"chosen": {f"trainer.{n}": getattr(s.cfg.trainer, n) for n in names}, "tried": tried}


def choices(name: str, s: Setting) -> list[Any]:
    """What to try beside what the rules say."""
    t = s.cfg.trainer
    every: dict[str, list[Any]] = {
        "workers": [0, 1, 2],
        "threads": sorted({1, max(1, _cores() // 2), _cores()}),
        "precision": ["32", "bf16"],
        "compile": ["never", "always"],
    }
    if name == "compile" and s.device.kind == "cpu" and not settle.has_compiler():
        return []
    return [v for v in every[name] if v != getattr(t, name)]


def _cores() -> int:
    return torch.get_num_threads()


def _with(cfg: Config, name: str, value: Any) -> Config:
    return replace(cfg, trainer=replace(cfg.trainer, **{name: value}))


def key(s: Setting, names: tuple[str, ...]) -> str:
    """Sixteen hexadecimal digits over the machine, the versions, the model, the form of the data and what is tuned."""
    model, augment = config.to_dict(s.cfg.model), config.to_dict(s.cfg.augment)
    trainer = {k: getattr(s.cfg.trainer, k) for k in ("batch_size", "precision", "threads", "compile", "workers")}
    shape = [int(n) for n in getattr(s.view.x, "shape", [])[1:]]
    machine = [settle.processor(), _cores(), s.device.kind, torch.__version__]
    text = json.dumps([machine, model, augment, trainer, shape, str(s.view.spec), names], default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
