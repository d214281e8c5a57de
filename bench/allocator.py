"""What it gives to keep freed memory: images/s of a frozen backbone with and without, in turns.

python bench/allocator.py [--backbone mobilenetv2_100] [--rounds 3]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

CODE = """
import sys, time
if sys.argv[1] == "keep":
    from proj.train.memory import keep_freed
    assert keep_freed()
import timm, torch
net = timm.create_model(sys.argv[2], num_classes=0).eval().to(memory_format=torch.channels_last)
x = torch.rand(32, 3, 256, 320).contiguous(memory_format=torch.channels_last)
with torch.inference_mode():
    net(x)
    start = time.perf_counter()
    for _ in range(6):
        net(x)
print(6 * 32 / (time.perf_counter() - start))
"""


def speed(mode: str, backbone: str) -> float:
    """Images a second, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", CODE, mode, backbone], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="mobilenetv2_100")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    pairs = [(speed("give", args.backbone), speed("keep", args.backbone)) for _ in range(args.rounds)]
    for give, keep in pairs:
        print(f"given back {give:6.1f} images/s   kept {keep:6.1f} images/s   ratio {keep / give:.2f}")
    print(f"median ratio {statistics.median(k / g for g, k in pairs):.2f}")


if __name__ == "__main__":
    main()
