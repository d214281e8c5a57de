"""How steady the machine itself is: a loop that only counts, on each core at once, in windows of 100 ms.

    python bench/steady.py [SECONDS]

Run it with nothing else running. A window in which less than 60 % of the usual work was done is one in which the host
gave the core to somebody else, or slowed it: no program here can do anything about it, and a server with a queue of
about as long has it in the p99 of its answers. Prints for each core how many such windows there were, how far apart
they came, and the time that was lost in the worst of them; then how many came on all cores in the same window.
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

WINDOW_S, SLOW, COUNTS = 0.1, 0.6, 2_000


def count(core: int, seconds: float, together: Barrier, said: Connection) -> None:
    """Say how often the loop ran in each window, all cores' windows beginning at the same moment."""
    os.sched_setaffinity(0, {core})
    windows = [0] * round(seconds / WINDOW_S)
    together.wait()
    start = time.monotonic()
    while (at := int((time.monotonic() - start) / WINDOW_S)) < len(windows):
        for _ in range(COUNTS):
            pass
        windows[at] += 1
    said.send(windows)


def counted(cores: list[int], seconds: float) -> list[list[int]]:
    """The windows of each core, by a process of its own."""
    together = multiprocessing.Barrier(len(cores))
    found = []
    for core in cores:
        ours, theirs = multiprocessing.Pipe(duplex=False)
        multiprocessing.Process(target=count, args=(core, seconds, together, theirs), daemon=True).start()
        theirs.close()
        found.append(ours)
    return [pipe.recv() for pipe in found]


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
    found = counted(cores, seconds)
    print("\n".join(line(core, windows) for core, windows in zip(cores, found, strict=True)))
    if len(cores) > 1:
        print(f"slow on all cores at once: {len(set.intersection(*(set(slow(w)) for w in found)))}")


if __name__ == "__main__":
    main()
