"""`proj profile`: what the time of a training goes to, and what to change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loguru import logger

from proj import console
from proj.data import prepare
from proj.verbs import stages
from proj.verbs.job import Job

if TYPE_CHECKING:
    from proj.train.advice import Advice
    from proj.train.measure import Extraction, Profile
    from proj.train.watch import Operation

TOP = 8  # operations that are shown; --json has 30
ROWS = {"image": "images", "text": "texts", "series": "series"}


def profile(job: Job, *, steps: int) -> tuple[Profile, list[Advice]]:
    """Prepare what is lacking, train for a few steps, and judge. Writes no run. Raises what training raises."""
    prepared = prepare.prepare(job.task, job.cfg, job.project.data)
    logger.info("loading torch")
    from proj.train import advice, inputs, measure, memory

    memory.keep_freed()
    cache = job.project.data / "features"
    with stages.without_hub(job):
        view = inputs.view(prepared, job.cfg.model, cache)
        measured = measure.measure(job.cfg, view, cache, steps=steps)
    return measured, advice.advise(advice.facts(measured))


def document(job: Job, p: Profile, advices: list[Advice]) -> dict[str, Any]:
    """What --json prints: seconds, bytes, rows and FLOP/s under names that say so; shares are of 0..1."""
    seen, t = p.seen, p.cfg.trainer
    return {
        "task": job.task.name,
        "backbone": p.cfg.model.backbone,
        "device": p.device.kind,
        "precision": p.device.precision,
        "threads": t.threads,
        "workers": t.workers,
        "batch_size": t.batch_size,
        "steps": seen.steps,
        "step_ms": 1000 * p.step_s,
        "rows_per_s": p.rows_per_s,
        "shares": seen.shares(),
        "epoch_ends": seen.epoch_ends,
        "cores_busy": seen.cpu_s / seen.seconds,
        "device_busy": p.device_busy,
        "parts": _parts(p),
        "operations": [_operation(o) for o in seen.operations[:30]],
        "gflop_per_row": p.flops_per_row / 1e9,
        "gflop_per_s": p.flops_per_s / 1e9,
        "roof_gflop_per_s": {"matmul": p.roof.matmul / 1e9, "convolution": p.roof.convolution / 1e9},
        "memory_bytes": p.memory_bytes,
        "extraction": None if p.extraction is None else _extraction(p.extraction),
        "advice": [{"change": list(a.change), "why": a.why} for a in advices],
        "next": _next(job, advices),
    }


def _parts(p: Profile) -> list[dict[str, Any]]:
    """The parts of Lightning's loop, the costliest first."""
    steps = max(1, p.seen.action_steps)
    found = [
        {
            "section": section,
            "part": _short(name) or "between the parts",
            "calls_per_step": s.calls / steps,
            "us_per_step": 1e6 * s.seconds / steps,
        }
        for (section, name), s in p.seen.actions.items()
        if s.seconds > 0
    ]
    return sorted(found, key=lambda d: -d["us_per_step"])


def _short(part: str) -> str:
    """Without the settings that Lightning writes into a callback's name."""
    return part.partition("{")[0] + part.rpartition("}")[2] if "{" in part else part


def _operation(o: Operation) -> dict[str, Any]:
    return {"name": o.name, "shapes": o.shapes, "kind": o.kind, "calls_per_step": o.calls,
            "ms_per_step": 1000 * o.seconds, "share": o.share}  # fmt: skip


def _extraction(e: Extraction) -> dict[str, Any]:
    return {"rows": e.rows, "rows_per_s": e.rows_per_s, "seconds": e.seconds,
            "operations": [_operation(o) for o in e.operations[:30]]}  # fmt: skip


def _next(job: Job, advices: list[Advice]) -> str:
    """The training with everything changed that was advised."""
    changes = [c for a in advices for c in a.change]
    keys = {c.partition("=")[0] for c in changes}
    kept = [o for o in job.composed.overrides if o.partition("=")[0] not in keys]
    return " ".join(["proj train", *kept, *changes])


def show(job: Job, p: Profile, advices: list[Advice]) -> None:
    """The same in words."""
    from proj.train.watch import SECTIONS

    rows = ROWS[job.task.modality]
    shares = p.seen.shares()
    if e := p.extraction:
        cached = p.cfg.model.cache
        print(f"features of the frozen backbone: {e.rows_per_s:,.0f} {rows}/s, {console.seconds(e.seconds)} for all of "
              + ("them, once" if cached else "them; they are not kept"))  # fmt: skip
        print("\n".join(_operations(e.operations, "a batch of features")) + "\n")
    what = "steps of the head" if p.extraction and p.cfg.model.cache else "steps"
    print(f"{p.seen.steps} {what}: {1000 * p.step_s:,.3g} ms each, {p.rows_per_s:,.0f} {rows}/s\n")
    table = [[name, _pc(share), SECTIONS[name]] for name, share in shares.items() if share >= 0.0005]
    print("\n".join(_words(["time goes to", "share", "what it is"], table)) + "\n")
    print("\n".join(_operations(p.seen.operations, "a step")) + "\n")
    console.outcome([*_figures(p), *_advice(advices)], next=_next(job, advices))


def _words(header: list[str], rows: list[list[str]]) -> list[str]:
    """A table whose last column is words, to the left."""
    width = max(len(r[-1]) for r in [header, *rows])
    return console.table([*header[:-1], header[-1].ljust(width)], [[*r[:-1], r[-1].ljust(width)] for r in rows])


def _operations(found: list[Operation], of: str) -> list[str]:
    rows = [[o.name, _pc(o.share), f"{1000 * o.seconds:.3g}", f"{o.calls:.3g}", o.shapes] for o in found[:TOP]]
    return _words(["operation", "share", f"ms {of}", "calls", "shapes of its inputs"], rows)


def _figures(p: Profile) -> list[tuple[str, str]]:
    t = p.cfg.trainer
    on = f"{t.threads} {'thread' if t.threads == 1 else 'threads'}" if p.device.kind == "cpu" else p.device.kind
    gflops, conv, mm = (v / 1e9 for v in (p.flops_per_s, p.roof.convolution, p.roof.matmul))
    found = [
        ("model", f"{p.cfg.model.backbone}, batches of {t.batch_size}, {p.device.precision}, {on}"),
        ("speed", f"{gflops:,.3g} GFLOP/s at {p.flops_per_row / 1e6:,.3g} MFLOP a row, forward and backward"),
        ("roof", f"a large convolution reaches {conv:,.3g} GFLOP/s here, a large matrix product {mm:,.3g}: "
                 f"this is {_pc(gflops / conv)} and {_pc(gflops / mm)} of them"),
    ]  # fmt: skip
    if p.device.kind == "cpu":
        found.append(("cores", f"{p.seen.cpu_s / p.seen.seconds:.2f} busy on average"))
    if p.device_busy is not None:
        found.append(("device", f"computes {_pc(p.device_busy)} of the time"))
    if p.memory_bytes is not None:
        found.append(("memory", f"{console.size(p.memory_bytes)} at the most"))
    return found


def _advice(advices: list[Advice]) -> list[tuple[str, str]]:
    if not advices:
        return [("change", "nothing: no rule finds a setting that would make this faster")]
    return [("change", f"{' '.join(a.change)}: {a.why}" if a.change else a.why) for a in advices]


def _pc(share: float) -> str:
    return f"{100 * share:.1f} %"
