"""A thousand connections at three times what the server can do: only answers and 503s, and afterwards all is as before.

    python bench/overload.py BUNDLE PHOTOS              `proj serve BUNDLE` with default settings, a minute and a half
    python bench/overload.py BUNDLE PHOTOS --seconds 5  a look

PHOTOS is a folder of JPEG photos (any files that the model takes). Capacity is measured just before, in a closed loop
on 64 connections; the load then is an open loop at three times that rate, twice. Latencies count from the moment a
request was due. Exit code 1 when a bar is missed:

statuses   200, or 503 with Retry-After; nothing else, no broken connection
p99        of the answers at the load, at most three times that at capacity
memory     RSS of all processes after the second load, against that after the first: what one more load leaves behind
recovery   seconds after the load's end until requests on one connection take what they took before: at most two
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from serving_sides import Running, SideError, photos, proj_side
from training_sides import machine
from training_table import aligned

from proj.serve import load, traffic
from proj.serve.traffic import Result

CONNECTIONS, TIMES, AT = 1000, 3.0, 64
P99, MEMORY, RECOVERY_S = 3.0, 1.05, 2.0
NORMAL = 2.0  # times the usual latency that still counts as usual: on a shared machine it differs by as much
IN_A_ROW = 5  # requests that have to be usual again


@dataclass
class Found:
    """Of one server: capacity (req/s), p99 there and under the load (s), and what the load left."""

    capacity: float
    calm_p99_s: float
    loads: list[Result]
    rss_mb: list[float]
    recovered_s: float

    @property
    def p99_s(self) -> float:
        return max(r.latency_s(0.99) for r in self.loads)

    @property
    def odd(self) -> int:
        """Requests that got something else than an answer or a 503 with Retry-After."""
        return sum(r.failed + r.statuses.get(503, 0) - r.retry_after for r in self.loads)

    def bars(self) -> list[tuple[str, str, str, bool]]:
        """What, measured, bar, holds."""
        p99, grown = self.p99_s / self.calm_p99_s, self.rss_mb[-1] / self.rss_mb[-2]
        return [
            ("neither 200 nor 503 with Retry-After", str(self.odd), "0", self.odd == 0),
            ("p99 of the answers ÷ p99 at capacity", f"{p99:.2f}", f"≤ {P99:g}", p99 <= P99),
            ("RSS after the second load ÷ after the first", f"{grown:.3f}", f"≤ {MEMORY:g}", grown <= MEMORY),
            ("seconds to recover", f"{self.recovered_s:.2f}", f"≤ {RECOVERY_S:g}", self.recovered_s <= RECOVERY_S),
        ]


def measure(server: Running, requests: Sequence[bytes], *, connections: int, seconds: float) -> Found:
    """Raises SideError when the server ends."""
    url = server.url
    usual = usual_s(url, requests)
    calm = load.run(url, requests, connections=AT, seconds=seconds, warm_s=1.0)
    rss = [server.rss_mb()]
    loads, recovered = [], 0.0
    for _ in range(2):
        loads.append(load.run(url, requests, connections=connections, seconds=seconds, rate=TIMES * calm.per_second))
        recovered = max(recovered, recovery_s(url, requests, usual))
        if server.process.poll() is not None:
            raise SideError(f"the server ended: {server.said()}")
        rss.append(server.rss_mb())
    return Found(calm.per_second, calm.latency_s(0.99), loads, rss, recovered)


def usual_s(url: str, requests: Sequence[bytes]) -> float:
    """Median seconds of a request when nothing else is asked."""
    return statistics.median(one_s(url, r) for r in (list(requests) * 20)[:20])


def one_s(url: str, request: bytes) -> float:
    """Seconds that one request takes; infinite where it is refused."""
    start = time.monotonic()
    try:
        status, _ = traffic.ask(url, request)
    except OSError:
        return float("inf")
    return time.monotonic() - start if status == 200 else float("inf")


def recovery_s(url: str, requests: Sequence[bytes], usual: float, limit_s: float = 30.0) -> float:
    """Seconds from now to the start of the first of IN_A_ROW requests that take what is usual."""
    start = time.monotonic()
    since, good = 0.0, 0
    while good < IN_A_ROW:
        at = time.monotonic() - start
        if at > limit_s:
            return float("inf")
        took = one_s(url, requests[0])
        if took > NORMAL * usual:
            good = 0
            time.sleep(0.01)
            continue
        since = at if good == 0 else since
        good += 1
    return since


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="what `proj serve` takes")
    parser.add_argument("photos", type=Path)
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="of the server; default: none")
    args = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sent = photos(args.photos, 50, folder / "photos")
        side = proj_side("ours", args.bundle.resolve(), *args.settings)
        with Running(side, sent[0], folder / "log") as server:
            requests = [side.request(server.url, p) for p in sent]
            found = measure(server, requests, connections=args.connections, seconds=args.seconds)
    print(f"capacity {found.capacity:.0f} req/s, p99 {1000 * found.calm_p99_s:.0f} ms on {AT} connections")
    for r in found.loads:
        print(f"load on {args.connections} connections: {r.content()}")
    print("RSS MB, at capacity and after each load: " + ", ".join(f"{x:.0f}" for x in found.rss_mb))
    rows = [[what, got, bar, "holds" if holds else "MISSED"] for what, got, bar, holds in found.bars()]
    print("\n".join(aligned(rows)))
    return int(not all(holds for *_, holds in found.bars()))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SideError as error:
        sys.exit(f"error: {error}")
