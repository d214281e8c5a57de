"""Workers killed under load, and a server told to stop with requests in flight.

    python bench/chaos.py BUNDLE PHOTOS                          a minute, a kill every five seconds
    python bench/chaos.py BUNDLE PHOTOS --seconds 12             a look

`proj serve BUNDLE --workers 2` under a closed loop; every five seconds the worker with the most connections
gets SIGKILL.
Each connection has one request in flight, so that as many requests may fail as the worker had connections at that
moment (counted in /proc). Afterwards a server with 200 requests in flight gets SIGTERM. Exit code 1 when a bar is
missed:

failed     of each kill, at most the requests that the killed worker had
rate       answers a second from two seconds after each kill on, against those before the first: at least 0.9
stopping   all requests in flight are answered: 200, or 503 where the queue was full
"""

from __future__ import annotations

import argparse
import os
import re
import signal
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


def rates(seen: Result, kills: list[Kill], every_s: float) -> tuple[float, list[float]]:
    """Answers a second before the first kill, and after each from BACK_S on."""
    good = seen.ended_s[seen.status == 200]

    def rate(start: float, end: float) -> float:
        return float(((good >= start) & (good < end)).sum()) / (end - start)

    ends = [*[k.at_s for k in kills[1:]], kills[-1].at_s + every_s] if kills else []
    return rate(1.0, every_s), [rate(k.at_s + BACK_S, end) for k, end in zip(kills, ends, strict=True)]


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
            seen, kills = kill_workers(
                server, requests, connections=args.connections, seconds=args.seconds, every_s=args.every
            )
        before, after = rates(seen, kills, args.every)
        print(f"load: {seen.content()}; {before:.0f} req/s before the first kill")
        per_second = np.bincount(seen.ended_s[seen.status == 200].astype(int))
        print("answers a second: " + " ".join(map(str, per_second.tolist())))
        for k, rate in zip(kills, after, strict=True):
            print(f"kill at {k.at_s:.1f} s: {k.failed} failed of {k.had} in flight; {rate:.0f} req/s from 2 s on")
        most = max((k.failed - k.had for k in kills), default=0)
        rows.append(["failed beyond those that the killed worker had", str(max(0, most)), "0", _holds(most <= 0)])
        least = min(after, default=0.0) / before
        rows.append(["least rate from 2 s after a kill on", f"{least:.2f}", f"≥ {RATE:g}", _holds(least >= RATE)])
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
