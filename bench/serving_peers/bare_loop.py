"""Decode and model in bare loops over bytes in memory, one a thread: what the engine itself gives on this machine.

`queue_p99_ms` is what a server without any cost of its own would have: the loops take inputs in turn from a queue, to
which each of 64 clients adds its next input the moment it is answered.

python bench/serving_peers/bare_loop.py BUNDLE PHOTOS --threads 2 --seconds 5 [--engine openvino --precision bf16]
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import threading
import time
from pathlib import Path

from proj import infer

WARM_S = 0.5
CLIENTS = 64


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--engine", default="")
    parser.add_argument("--precision", default="")
    parser.add_argument("--batch", type=int, default=1)
    args = parser.parse_args()
    chosen = {k: v for k, v in {"engine": args.engine, "precision": args.precision}.items() if v}
    model = infer.load(args.bundle, threads=1, **chosen)
    files = [p.read_bytes() for p in sorted(args.photos.iterdir())]
    done: list[list[float]] = [[] for _ in range(args.threads)]
    ended: list[float] = []
    start = time.perf_counter() + WARM_S
    end = start + args.seconds

    def loop(index: int) -> None:
        mine = itertools.cycle(files[index :: args.threads] or files)
        while (now := time.perf_counter()) < end:
            xs = [infer.decode(model, next(mine)) for _ in range(args.batch)]
            infer.run(model, infer.batch(xs))
            if now >= start:
                after = time.perf_counter()
                ended.append(after)
                done[index].append(after - now)

    threads = [threading.Thread(target=loop, args=(i,)) for i in range(args.threads)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    took = [s for each in done for s in each]
    found = {"images_per_s": args.batch * len(took) / args.seconds, "p50_ms": 1000 * statistics.median(took)}
    print(json.dumps(found | {"queue_p99_ms": 1000 * queue_p99_s(ended, CLIENTS)}))


def queue_p99_s(ended: list[float], clients: int) -> float:
    """An input is added when one of so many clients is answered, and answered after all that waited then."""
    times = sorted(ended)
    waits = sorted(b - a for a, b in zip(times, times[clients:], strict=False))
    return waits[int(0.99 * len(waits))] if waits else float("nan")


if __name__ == "__main__":
    main()
