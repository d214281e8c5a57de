"""What bench/serving.py prints: a row a side, and the bars as ratios of alternating pairs."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

from training_table import Line, aligned

AT = 64  # connections at which sides are compared
PEER_BARS = {"fastapi-torch": 6.5, "fastapi-onnx": 2.2, "fastapi-ours": 1.1, "litserve": 2.5, "bentoml": 2.5}
BF16, BARE, ONE, QUEUE, START_S, PSS_MB = 9.0, 0.87, 1.35, 1.5, 1.0, 180.0


@dataclass
class Seen:
    """One side's turn `number` in a pair of sides: req/s, p50 and p99 (ms) by connections, failures, the load's CPU."""

    side: str
    pair: tuple[str, ...]
    number: int
    per_second: dict[int, float] = field(default_factory=dict)
    p50_ms: dict[int, float] = field(default_factory=dict)
    p99_ms: dict[int, float] = field(default_factory=dict)
    failed: dict[int, int] = field(default_factory=dict)
    load_cpu_ms: dict[int, float] = field(default_factory=dict)

    def waits(self, c: int) -> float:
        """How many times the queue time that the side's own throughput implies its slowest answers took."""
        return self.p99_ms[c] / (1000 * c / self.per_second[c]) if self.per_second.get(c) else float("inf")


@dataclass
class Bare:
    """The bare loops' turn beside ours: images/s in as many threads as the server has; ms an image in one.

    `queue_p99_ms` is of AT clients, of a server that costs nothing: what the machine alone does to the slowest answers.
    """

    number: int
    images_per_s: float
    one_ms: float
    queue_p99_ms: float

    @property
    def waits(self) -> float:
        return self.queue_p99_ms / (1000 * AT / self.images_per_s)


@dataclass
class Process:
    """A side's server, started once for each pair and round: seconds to the first answer, PSS after the load."""

    side: str
    start_s: float
    pss_mb: float


def sides(seen: list[Seen], bare: list[Bare], processes: list[Process], connections: list[int]) -> list[str]:
    """A row a side: medians over all of its turns; at AT connections also the range."""
    heads = [
        "side", *(f"c{c} req/s" for c in connections), "from..to" if AT in connections else "", f"p50 ms c{AT}",
        f"p99 ms c{AT}", "p99÷queue", "p50 ms c1", "start s", "PSS MB", "load ms", "failed",
    ]  # fmt: skip
    rows = [heads]
    for name in dict.fromkeys(s.side for s in seen):
        mine = [s for s in seen if s.side == name]
        started = [p for p in processes if p.side == name]
        speeds = [_figure(_median([s.per_second.get(c) for s in mine])) for c in connections]
        there = [s.per_second[AT] for s in mine if AT in s.per_second]
        spread = f"{min(there):.0f}..{max(there):.0f}" if there else ""
        rows.append([
            name, *speeds, spread, _figure(_median([s.p50_ms.get(AT) for s in mine])),
            _figure(_median([s.p99_ms.get(AT) for s in mine])),
            _figure(_median([s.waits(AT) for s in mine if AT in s.per_second])),
            _figure(_median([s.p50_ms.get(1) for s in mine])), _figure(_median([p.start_s for p in started])),
            _figure(_median([p.pss_mb for p in started])), _figure(_median([s.load_cpu_ms.get(AT) for s in mine])),
            str(sum(sum(s.failed.values()) for s in mine)),
        ])  # fmt: skip
    if bare:
        there = [b.images_per_s for b in bare]
        one = _median([b.one_ms for b in bare])
        speeds = ["" if c != AT else _figure(_median(there)) for c in connections]
        spread = f"{min(there):.0f}..{max(there):.0f}" if AT in connections else ""
        p99 = [_figure(_median([b.queue_p99_ms for b in bare])), _figure(_median([b.waits for b in bare]))]
        rows.append(["bare loops", *speeds, spread, "", *p99, _figure(one), "", "", "", ""])
    return aligned(rows)


def bars(seen: list[Seen], bare: list[Bare], processes: list[Process], *, amx: bool) -> list[Line]:
    """The bars that what was seen allows to judge. A side is compared with the other's turn of the same number."""
    lines = [_speed("ours", peer, bar, seen) for peer, bar in PEER_BARS.items()]
    # Without AMX bf16 is converted back and forth: the bar is not for such a CPU.
    lines += [_speed("bf16", "fastapi-torch", BF16, seen)] if amx else []
    loop = Line(f"req/s at {AT}", "bare loops", BARE, "req/s")
    one = Line("latency at one connection", "bare loop, one thread", ONE, "ms", least=False)
    queue = Line(f"p99 at {AT}", f"{AT} ÷ its req/s", QUEUE, "ms", least=False)
    start = Line("start to first answer", "one second", START_S, "s", least=False)
    memory = Line("PSS of all processes", "one MB", PSS_MB, "MB", least=False)
    loops = {b.number: b for b in bare}
    for s in [s for s in seen if s.side == "ours"]:
        if AT in s.per_second:
            queue.add(s.p99_ms[AT], 1000 * AT / s.per_second[AT])
        b = loops.get(s.number) if s.pair[-1] == "bare" else None
        if b is not None and AT in s.per_second:
            loop.add(s.per_second[AT], b.images_per_s)
        if b is not None and 1 in s.p50_ms:
            one.add(s.p50_ms[1], b.one_ms)
    for p in [p for p in processes if p.side == "ours"]:
        start.add(p.start_s, 1.0)
        memory.add(p.pss_mb, 1.0)
    return [*lines, loop, one, queue, start, memory]


def _speed(ours: str, theirs: str, bar: float, seen: list[Seen]) -> Line:
    line = Line(f"req/s at {AT}" + (f", {ours}" if ours != "ours" else ""), theirs, bar, "req/s")
    here = [s for s in seen if s.pair == (ours, theirs) and s.per_second.get(AT)]
    peers = {s.number: s for s in here if s.side == theirs}
    for s in here:
        if s.side == ours and s.number in peers:
            line.add(s.per_second[AT], peers[s.number].per_second[AT])
    return line


def _median(values: list[Any]) -> float | None:
    there = [v for v in values if v is not None]
    return statistics.median(there) if there else None


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
