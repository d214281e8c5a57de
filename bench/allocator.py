"""What each allocator gives: images/s of training steps, or of a frozen backbone.

    python bench/allocator.py [--backbone mobilenetv3_small_100] [--rounds 20]
    python bench/allocator.py --frozen --backbone mobilenetv2_100

A process each: glibc as it comes; `mallopt`, told so while it runs (what is left where a process cannot start anew);
glibc with tunables, jemalloc and tcmalloc, as src/proj/train/allocator.py starts them, where they are installed
(Debian: libjemalloc2, libtcmalloc-minimal4). All are started first and then compute in turns, a few steps each, there
and back, so that a busy machine slows them alike. Ratios are of each round. Exit code 1 when the loss after the same
steps is not the same number everywhere: an allocator changes no weights.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

from training_table import aligned, order

from proj.train import allocator

CODE = """
import resource, sys, time
told, backbone, size, batch, threads, frozen = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
if told == "mallopt":
    from proj.train.memory import keep_freed
    assert keep_freed()
import timm, torch
torch.set_num_threads(threads or torch.get_num_threads())
torch.manual_seed(0)
net = timm.create_model(backbone, num_classes=0 if frozen else 6).to(memory_format=torch.channels_last)
x = torch.rand(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
y = torch.randint(0, 6, (batch,))
if frozen:
    net.eval()
    def step():
        with torch.inference_mode():
            return net(x).mean()
else:
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.05, fused=True)
    def step():
        loss = torch.nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss
for line in sys.stdin:
    wall, cpu, before = time.perf_counter(), time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(int(line)):
        loss = step()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(batch * int(line) / wall, batch * int(line) / cpu, (usage.ru_minflt - before) / int(line),
          usage.ru_maxrss / 1024, repr(float(loss)), flush=True)
"""
SETTINGS = ("LD_PRELOAD", "GLIBC_TUNABLES", "MALLOC_", "TCMALLOC_")


def ways() -> dict[str, dict[str, str]]:
    """The variables that each way starts with."""
    found: dict[str, dict[str, str]] = {"as it comes": {}, "mallopt": {}}
    for name in allocator.SETTINGS:
        if name == "glibc" or allocator.library(name):
            found[name] = allocator.environment(name, {})
        else:
            print(f"{name} is not installed", file=sys.stderr)
    return found


class Way:
    """A process that takes so many steps whenever it is asked."""

    def __init__(self, name: str, variables: dict[str, str], args: argparse.Namespace) -> None:
        bare = {k: v for k, v in os.environ.items() if not k.startswith(SETTINGS)}
        words = [name, args.backbone, *map(str, (args.size, args.batch, args.threads, int(args.frozen)))]
        self.process = subprocess.Popen(
            [sys.executable, "-c", CODE, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=bare | variables,
        )
        self.figures: list[list[float]] = []  # images/s, images per CPU-second, pages asked for in a step, most MiB
        self.loss = ""

    def steps(self, n: int) -> list[float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{n}\n")
        self.process.stdin.flush()
        *figures, self.loss = self.process.stdout.readline().split()
        return [float(x) for x in figures]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="mobilenetv3_small_100")
    parser.add_argument("--frozen", action="store_true", help="forward only, in inference mode")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=5, help="of each in a round")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    parser.add_argument("--ways", nargs="+", help="some of them alone; ratios are against the first")
    args = parser.parse_args()
    there = ways()
    every = {name: Way(name, there[name], args) for name in (args.ways or there)}
    try:
        for way in every.values():
            way.steps(8)  # until they have what they need
        for i in range(args.rounds):
            for name in order(list(every), i):
                every[name].figures.append(every[name].steps(args.steps))
    finally:
        for way in every.values():
            way.process.kill()
            way.process.wait()
    print("\n".join(aligned(table(every))))
    losses = {way.loss for way in every.values()}
    print(f"the loss at the end: {', '.join(sorted(losses))}")
    return int(len(losses) > 1)


def table(every: dict[str, Way]) -> list[list[str]]:
    first = next(iter(every.values())).figures
    rows = [["allocator", "images/s", "ratio", "per CPU-second", "ratio", "pages a step", "MiB"]]
    for name, way in every.items():
        speed, each, pages, mib = (statistics.median(f[i] for f in way.figures) for i in range(4))
        wall, cpu = (ratios(way.figures, first, i) for i in range(2))
        rows.append([name, f"{speed:.1f}", wall, f"{each:.1f}", cpu, f"{pages:,.0f}", f"{mib:,.0f}"])
    return rows


def ratios(ours: list[list[float]], first: list[list[float]], i: int) -> str:
    """Median of the rounds, and what the middle half of them lies between."""
    low, middle, high = statistics.quantiles([a[i] / b[i] for a, b in zip(ours, first, strict=True)], n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    sys.exit(main())
