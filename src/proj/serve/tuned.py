"""What `--tune` found, in words and as serve.yaml."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from proj.errors import disk_error
from proj.serve import cores
from proj.serve.trial import CONNECTIONS, Choice, Trial

MARK = "# tuned: "  # begins each comment line that is written here, and replaced by the next --tune
SAME = 0.97  # of the other's speed: what counts as equal


def words(choice: Choice) -> str:
    """A choice in one line."""
    workers = "1 process" if choice.workers == 1 else f"{choice.workers} processes"
    threads = "1 thread" if choice.threads == 1 else f"{choice.threads} threads"
    return f"{choice.kind}, {workers} x {threads}, batch {choice.batch}"


def outcome(t: Trial) -> str:
    """What the last measurement of a trial gave."""
    if t.failed:
        return t.failed
    return f"{t.per_second[-1]:.0f} req/s, p99 {t.p99_ms[-1]:.0f} ms, one connection {t.one_ms[-1]:.1f} ms"


def table(trials: Sequence[Trial], best: Choice) -> list[str]:
    """A row a choice, the fastest first; the one that is taken has an arrow."""
    heads = ["", "engine", "processes", "threads", "batch", "req/s", "p50 ms", "p99 ms", "one ms", "runs", "difference"]
    rows = [heads]
    for t in sorted(trials, key=lambda t: -t.speed):
        c = t.choice
        known = [c.kind, str(c.workers), str(c.threads), c.batch]
        seen = [t.failed] if t.failed else _figures(t)
        rows.append(["→" if c == best else "", *known, *seen])
    widths = [
        max((len(r[i]) for r in rows if len(r) > i and not (len(r) == 6 and i == 5)), default=0) for i in range(11)
    ]
    return ["  ".join(cell.ljust(w) for cell, w in zip(r, widths, strict=False)).rstrip() for r in rows]


def _figures(t: Trial) -> list[str]:
    p50, p99, one = (statistics.median(x) for x in (t.p50_ms, t.p99_ms, t.one_ms))
    return [f"{t.speed:.0f}", f"{p50:.0f}", f"{p99:.0f}", f"{one:.2f}", str(len(t.per_second)), f"{t.difference:.1g}"]


def reasons(base: Choice, best: Choice, tried: Mapping[Choice, Trial], *, may_round: bool = True) -> list[str]:
    """Why this choice, a sentence for each thing that was varied. Speeds are on CONNECTIONS connections.

    `may_round`: bf16 was asked for, and could have been taken.
    """
    gain = tried[best].speed / tried[base].speed
    if best == base:
        said = [f"The defaults stay: {words(base)}. Nothing was faster by enough to be sure of it."]
    else:
        said = [f"Taken: {words(best)}. {gain:.2f} times as fast as the defaults ({words(base)})."]
    rounded = max((t.speed for c, t in tried.items() if c.precision == "bf16"), default=0.0)
    if best.precision == "bf16":
        said.append(
            f"bf16 rounds: probabilities differ by {tried[best].difference:.1g} at the most on the bundle's samples, "
            "and no label did; `precision=fp32` is exact."
        )
    elif rounded and not may_round:
        said.append(
            f"bf16 had {rounded / tried[best].speed:.2f} times its speed; it rounds, and is taken only by name: "
            "--tune engine=openvino precision=bf16."
        )
    rivals = [t for c, t in tried.items() if t.speed and (may_round or c.precision == "fp32")]
    for name, one in {"engine": "engine", "workers": "number of processes", "threads": "number of threads",
                      "max_batch": "batch"}.items():  # fmt: skip
        others = [t for t in rivals if getattr(t.choice, name) != getattr(best, name)]
        if others:
            rival = max(others, key=lambda t: t.speed)
            said.append(f"With another {one}, the best was {words(rival.choice)}: {_verdict(rival, tried[best])}.")
    return [*said, *(f"Not taken: {words(t.choice)}: {t.failed}." for t in tried.values() if t.failed)]


def _verdict(rival: Trial, best: Trial) -> str:
    share, looks, of = rival.speed / best.speed, len(rival.per_second), len(best.per_second)
    if SAME <= share <= 1 / SAME:
        return "as fast, within the noise"
    few = f", in {looks} look{'s' if looks > 1 else ''} of {of}" if share > 1 and looks < of else ""
    return f"{share:.2f} of its speed{few}"


def write(path: Path, best: Choice, tried: Mapping[Choice, Trial]) -> None:
    """Put the choice into serve.yaml in one step; what else the file says stays. Raises ResourceError."""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    t = tried[best]
    comments = [
        f"by `proj serve --tune`, {now}, on {_machine()}",
        f"{t.speed:.0f} requests a second on {CONNECTIONS} connections, "
        f"p99 {statistics.median(t.p99_ms):.0f} ms, {statistics.median(t.one_ms):.1f} ms on one",
        *(f"{words(o.choice)}: {f'{o.speed:.0f} req/s' if o.speed else o.failed}"
          for o in sorted(tried.values(), key=lambda o: -o.speed)),
    ]  # fmt: skip
    lines = [*(MARK + " ".join(c.split()) for c in comments), *(f"{k}: {v}" for k, v in best.settings.items())]
    tmp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        tmp.write_text("\n".join([*lines, *_others(path, best)]) + "\n", encoding="utf-8")
        os.replace(tmp, path)
    except OSError as e:
        tmp.unlink(missing_ok=True)
        raise disk_error(e, f"{path} cannot be written") from None


def _others(path: Path, best: Choice) -> list[str]:
    """The lines of a serve.yaml that are not ours."""
    if not path.is_file():
        return []
    ours = tuple(f"{key}:" for key in best.settings)
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith((MARK.rstrip(), *ours))]


def _machine() -> str:
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = [x for x in info.read_text(errors="replace").splitlines() if x.startswith("model name")]
        name = found[0].partition(":")[2].strip() if found else name
    return f"{name}, {cores.cores()} cores"
