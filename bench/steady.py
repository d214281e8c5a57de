"""How steady the machine itself is: a loop that only counts, on each core at once, in windows of 100 ms.

    python bench/steady.py [SECONDS]

Run it with nothing else running. A window in which less than 60 % of the usual work was done is one in which the host
gave the core to somebody else, or slowed it: no program here can do anything about it, and a server with a queue of
about as long has it in the p99 of its answers. Prints for each core how many such windows there were, how far apart
they came, and the time that was lost in the worst of them; then how many came on all cores in the same window.

The last line is what this alone does to the slowest answers: a queue of 100 ms (as 64 clients make it at 640 answers/s)
worked off in turn, by all cores together, as fast as they counted. No server that answers in turn has a better p99 in
such an hour.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import statistics
import time
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier

import numpy as np

WINDOW_S, SLOW, COUNTS = 0.1, 0.6, 2_000
PARTS = 20  # of a window, each of them counted by itself
QUEUE_S = 0.1


def count(core: int, seconds: float, together: Barrier, said: Connection) -> None:
    """Say how often the loop ran in each part of a window, all cores' windows beginning at the same moment."""
    os.sched_setaffinity(0, {core})
    parts = [0] * (PARTS * round(seconds / WINDOW_S))
    together.wait()
    start = time.monotonic()
    while (at := int((time.monotonic() - start) * PARTS / WINDOW_S)) < len(parts):
        for _ in range(COUNTS):
            pass
        parts[at] += 1
    said.send(parts)


def counted(cores: list[int], seconds: float) -> list[list[int]]:
    """The parts of each core's windows, by a process of its own."""
    together = multiprocessing.Barrier(len(cores))
    found = []
    for core in cores:
        ours, theirs = multiprocessing.Pipe(duplex=False)
        multiprocessing.Process(target=count, args=(core, seconds, together, theirs), daemon=True).start()
        theirs.close()
        found.append(ours)
    return [pipe.recv() for pipe in found]


def whole(parts: list[int]) -> list[int]:
    """The windows that the parts make."""
    return [sum(parts[i : i + PARTS]) for i in range(0, len(parts), PARTS)]


def queue_p99(parts: list[int]) -> float:
    """The p99 of the waits, as multiples of QUEUE_S: each begins at some work and ends QUEUE_S of mean work later."""
    work = np.concatenate([[0.0], np.cumsum(parts)])
    edges_s = np.arange(len(work)) * WINDOW_S / PARTS
    queued = QUEUE_S * work[-1] / edges_s[-1]
    begins = np.linspace(0, work[-1] - queued, 10 * len(work))
    waits_s = np.interp(begins + queued, work, edges_s) - np.interp(begins, work, edges_s)
    return float(np.quantile(waits_s, 0.99) / QUEUE_S)


def usual(windows: list[int]) -> float:
    """The median's work; where other programs left half of the windows nothing, the most that was seen."""
    return statistics.median(windows) or max(windows)


def slow(windows: list[int]) -> list[int]:
    """The windows with less than SLOW of the usual work."""
    return [i for i, n in enumerate(windows) if n < SLOW * usual(windows)]


def line(core: int, windows: list[int]) -> str:
    found = slow(windows)
    worst_ms = 1000 * WINDOW_S * (1 - min(windows) / usual(windows))
    gaps = [WINDOW_S * (b - a) for a, b in itertools.pairwise(found) if b > a + 2]
    apart = f", {statistics.median(gaps):.1f} s apart" if gaps else ""
    return f"core {core}: {len(found)} of {len(windows)} windows slow{apart}; {worst_ms:.0f} ms lost in the worst"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", nargs="?", type=float, default=30.0)
    seconds = parser.parse_args().seconds
    cores = sorted(os.sched_getaffinity(0))
    parts = counted(cores, seconds)
    found = [whole(each) for each in parts]
    print("\n".join(line(core, windows) for core, windows in zip(cores, found, strict=True)))
    if len(cores) > 1:
        print(f"slow on all cores at once: {len(set.intersection(*(set(slow(w)) for w in found)))}")
    p99 = queue_p99([sum(at) for at in zip(*parts, strict=True)])
    print(f"p99 of a queue of {1000 * QUEUE_S:.0f} ms: {p99:.2f} times as long")


if __name__ == "__main__":
    main()
