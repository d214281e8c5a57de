"""How bench/serving.py measures: pairs of sides that run side by side and are asked in turn."""

from __future__ import annotations

import argparse
import contextlib
import gc
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from serving_sides import Made, Running, Side, SideError, bare
from serving_table import Bare, Process, Seen
from training_table import order

from proj.serve import cores, load
from proj.serve.settings import Settings

BARE = "bare"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def pairs(names: list[str]) -> list[tuple[str, ...]]:
    """Who takes turns with whom: ours with each other side, bf16 with the peer that it has a bar against."""
    if "ours" not in names:
        return [(name,) for name in names]
    found: list[tuple[str, ...]] = [("ours", name) for name in names if name != "ours"] or [("ours",)]
    if {"bf16", "fastapi-torch"} <= set(names):
        found.append(("bf16", "fastapi-torch"))
    return found


@dataclass
class Found:
    """What is measured with, and what was seen."""

    known: dict[str, Side]
    sent: list[bytes]
    made: Made
    args: argparse.Namespace
    folder: Path
    seen: list[Seen] = field(default_factory=list)
    bare: list[Bare] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


class Turns:
    """The sides of one pair, running: each is asked in its turn, and stands still in the other's."""

    def __init__(self, pair: tuple[str, ...], found: Found, stack: contextlib.ExitStack) -> None:
        self.pair, self.found = pair, found
        self.servers: dict[str, Running] = {}
        self.requests: dict[str, list[bytes]] = {}
        for name in pair:
            if name == BARE:
                continue
            side = found.known[name]
            server = stack.enter_context(Running(side, found.sent[0], found.folder / f"{name}.log"))
            self.servers[name] = server
            self.requests[name] = [side.request(server.url, photo) for photo in found.sent]
            load.run(server.url, self.requests[name], connections=8, seconds=found.args.warm)
            server.pause()

    def slice(self, name: str, number: int) -> str:
        """One side's turn. Returns what it gave, in words."""
        found, args = self.found, self.found.args
        if name == BARE:
            b = bare_loops(found, number)
            found.bare.append(b)
            return f"bare {b.images_per_s:.0f}/s, p99÷queue {b.waits:.2f}, one thread {b.one_ms:.2f} ms"
        seen = Seen(name, self.pair, number)
        server = self.servers[name]
        server.go_on()
        for c in args.connections:
            got = load.run(server.url, self.requests[name], connections=c, seconds=args.seconds, warm_s=args.warm)
            seen.per_second[c] = got.per_second
            seen.p50_ms[c], seen.p99_ms[c] = 1000 * got.latency_s(0.5), 1000 * got.latency_s(0.99)
            seen.failed[c] = len(got.status) - got.statuses.get(200, 0)
            seen.load_cpu_ms[c] = 1000 * got.cpu_s / max(1, len(got.status))
        server.pause()
        found.seen.append(seen)
        return f"{name} " + " ".join(f"c{c} {v:.0f}/s" for c, v in seen.per_second.items())

    def end(self) -> None:
        for name, server in self.servers.items():
            server.go_on()
            self.found.processes.append(Process(name, server.start_s, server.pss_mb()))


def bare_loops(found: Found, number: int) -> Bare:
    workers, threads = cores.shares(Settings())
    photos, seconds = found.folder / "photos", found.args.seconds
    many = bare(found.made.bundle, photos, workers * threads, seconds, found.folder)
    one = bare(found.made.bundle, photos, 1, seconds, found.folder)
    return Bare(number, many["images_per_s"], one["p50_ms"], many["queue_p99_ms"])


def rounds(found: Found) -> None:
    """Each pair in each round, its sides in turn."""
    args = found.args
    names = [n for n in args.sides if n in found.known or n == BARE]
    for i in range(args.rounds):
        for pair in order(pairs(names), i):
            if not found.failed.keys() & set(pair):
                start = time.monotonic()
                gc.collect()
                said = one_pair(pair, found, i)
                say(f"round {i + 1} of {args.rounds}: {'; '.join(said)} ({time.monotonic() - start:.0f} s)")


def one_pair(pair: tuple[str, ...], found: Found, i: int) -> list[str]:
    said = []
    try:
        with contextlib.ExitStack() as stack:
            turns = Turns(pair, found, stack)
            for k in range(found.args.slices):
                for name in order([*pair], k):
                    said.append(turns.slice(name, i * found.args.slices + k))
            turns.end()
    except (SideError, OSError) as e:
        found.failed[pair[-1]] = str(e).splitlines()[-1]
        said.append(f"did not run: {e}")
    return said
