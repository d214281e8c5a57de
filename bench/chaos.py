"""Workers killed under load, and a server told to stop with requests in flight.

    python bench/chaos.py BUNDLE PHOTOS                          two minutes, in one of them a kill every five seconds
    python bench/chaos.py BUNDLE PHOTOS --seconds 12             a look

`proj serve BUNDLE --workers 2` under a closed loop: a minute in peace, then one in which every five seconds the worker
with the most connections gets SIGKILL.
Each connection has one request in flight, so that as many requests may fail as the worker had connections at that
moment (counted in /proc). Afterwards a server with 200 requests in flight gets SIGTERM. Exit code 1 when a bar is
missed:

failed     of each kill, at most the requests that the killed worker had
rate       answers a second from two seconds after each kill on, against those of as many windows at the same times of
           the minute in peace: least against least and median against median, at least 0.9. A shared machine gives one
           and the same server a quarter more or less from one window to the next
stopping   all requests in flight are answered: 200, or 503 where the queue was full
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from serving_sides import Running, SideError, photos, proj_side
from training_sides import machine
from training_table import aligned

from proj.serve import load
from proj.serve.traffic import Result

EVERY_S, BACK_S, RATE = 5.0, 2.0, 0.9
IN_FLIGHT = 200
ESTABLISHED = "01"


@dataclass
class Kill:
    """`at_s`: on the load's clock. `had`: connections of the worker just before; `failed`: requests until the next."""

    at_s: float
    had: int
    failed: int = 0


@dataclass
class Killer:
    """Kills the busiest worker every `every_s` seconds, and none later than `last_s`."""

    server: Running
    every_s: float
    last_s: float
    kills: list[Kill] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        began = time.perf_counter()
        port = int(self.server.url.rpartition(":")[2])
        while not self.stop.wait(max(0.0, began + self.every_s * (len(self.kills) + 1) - time.perf_counter())):
            serving = {pid: n for pid in self.server.children() if (n := connections_of(pid, port))}
            if time.perf_counter() - began > self.last_s:
                return
            if not serving:
                continue
            pid = max(serving, key=lambda p: serving[p])
            had = connections_of(pid, port)
            os.kill(pid, signal.SIGKILL)
            self.kills.append(Kill(time.perf_counter() - began, had))


def connections_of(pid: int, port: int) -> int:
    """Connections to `port` that a process holds open, as the server's side of them."""
    inodes = set()
    for fd in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            if found := re.fullmatch(r"socket:\[(\d+)\]", str(fd.readlink())):
                inodes.add(found[1])
        except OSError:
            continue
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    local = f":{port:04X}"
    return sum(row[1].endswith(local) and row[3] == ESTABLISHED and row[9] in inodes for row in rows)


def kill_workers(
    server: Running, requests: Sequence[bytes], *, connections: int, seconds: float, every_s: float
) -> tuple[Result, list[Kill]]:
    """Load a server for `seconds` and kill a worker every `every_s`, the last one `every_s` before the end."""
    killer = Killer(server, every_s, seconds - every_s / 2)
    thread = threading.Thread(target=killer.run)
    thread.start()
    try:
        seen = load.run(server.url, requests, connections=connections, seconds=seconds)
    finally:
        killer.stop.set()
        thread.join()
    if server.process.poll() is not None:
        raise SideError(f"the server ended: {server.said()}")
    edges = [k.at_s for k in killer.kills] + [float("inf")]
    bad = seen.ended_s[(seen.status != 200) & (seen.status != 503)]
    for kill, after in zip(killer.kills, edges[1:], strict=True):
        kill.failed = int(((bad >= kill.at_s - 0.2) & (bad < after - 0.2)).sum())
    return seen, killer.kills


def rates(seen: Result, kills_s: Sequence[float], every_s: float) -> list[float]:
    """Answers a second after each kill from BACK_S on, to the next; `kills_s`: when they were, on the load's clock."""
    good = seen.ended_s[seen.status == 200]
    ends = [*kills_s[1:], kills_s[-1] + every_s] if kills_s else []

    def rate(start: float, end: float) -> float:
        return float(((good >= start) & (good < end)).sum()) / (end - start)

    return [rate(at + BACK_S, end) for at, end in zip(kills_s, ends, strict=True)]


def stop_with_in_flight(server: Running, requests: Sequence[bytes], count: int) -> tuple[Result, int]:
    """`count` requests at once on as many connections, then SIGTERM; what became of them, and the exit code."""

    def stop() -> None:
        server.process.send_signal(signal.SIGTERM)

    # Sent at once, each on its own connection: by then all have arrived, and few have been answered.
    timer = threading.Timer(0.05, stop)
    seen = load.run(
        server.url, requests, connections=count, seconds=60, count=count, on_sent=timer.start, patience_s=60
    )
    timer.join()
    return seen, server.process.wait(60)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="what `proj serve` takes")
    parser.add_argument("photos", type=Path)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=EVERY_S, help="seconds from kill to kill")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="of the server; default: none")
    args = parser.parse_args()
    print(machine())
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sent = photos(args.photos, 50, folder / "photos")

        def serving(name: str, *settings: str) -> Any:
            return Running(proj_side(name, args.bundle.resolve(), *settings, *args.settings), sent[0], folder / name)

        with serving("chaos", "--workers", "2") as server:
            requests = [server.side.request(server.url, p) for p in sent]
            peace = load.run(server.url, requests, connections=args.connections, seconds=args.seconds)
            seen, kills = kill_workers(
                server, requests, connections=args.connections, seconds=args.seconds, every_s=args.every
            )
        after = rates(seen, [k.at_s for k in kills], args.every)
        usual = rates(peace, [args.every * (i + 1) for i in range(len(kills))], args.every)
        for what, result in {"in peace": peace, "with kills": seen}.items():
            per_second = np.bincount(result.ended_s[result.status == 200].astype(int))
            print(f"{what}: {result.content()}\nanswers in each second: {' '.join(map(str, per_second.tolist()))}")
        for k, rate, beside in zip(kills, after, usual, strict=True):
            print(f"kill at {k.at_s:.1f} s: {k.failed} failed of {k.had} in flight; {rate:.0f} req/s from {BACK_S:g} s "
                  f"on, {beside:.0f} in peace")  # fmt: skip
        most = max((k.failed - k.had for k in kills), default=0)
        rows.append(["failed beyond those that the killed worker had", str(max(0, most)), "0", _holds(most <= 0)])
        for word, of in {"least": min, "median": statistics.median}.items():
            ratio = of(after) / of(usual) if kills else 0.0
            what = f"{word} rate from {BACK_S:g} s after a kill on ÷ in peace"
            rows.append([what, f"{ratio:.2f}", f"≥ {RATE:g}", _holds(ratio >= RATE)])
        for name, words in {"default queue": (), "queue_size=256": ("queue_size=256",)}.items():
            with serving(f"stop-{len(words)}", *words) as server:
                requests = [server.side.request(server.url, p) for p in sent]
                seen, code = stop_with_in_flight(server, requests, IN_FLIGHT)
            answered = seen.failed == 0 and code == 0
            rows.append([f"SIGTERM with {IN_FLIGHT} in flight, {name}", f"{seen.statuses}, exit code {code}",
                         "all answered", _holds(answered)])  # fmt: skip
    print("\n".join(aligned(rows)))
    return int(any(row[-1] == "MISSED" for row in rows))


def _holds(value: bool) -> str:
    return "holds" if value else "MISSED"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SideError as error:
        sys.exit(f"error: {error}")
