"""A training step by itself, on one random batch, with the best settings: no input, no log, no validation.

Channels-last, fused AdamW, an allocator that keeps what is freed (bench/training.py starts it with the one that `proj
train` chooses); bf16, compilation and threads as asked. Prints {"images_per_s": ...}. Run by bench/training.py.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import time


def keep_freed() -> None:
    """glibc: no mmap, no trim, grow by 256 MiB (M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD of malloc.h)."""
    if sys.platform.startswith("linux"):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)
        libc.mallopt(-1, 2**31 - 1)
        libc.mallopt(-2, 2**28)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--classes", type=int, default=6)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    keep_freed()
    import timm
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device(args.device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32
    net = timm.create_model(args.backbone, pretrained=False, num_classes=args.classes)
    net = net.to(device, memory_format=torch.channels_last).train()
    if args.compile:
        net.compile()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.05, fused=True)
    x = torch.randn(args.batch, 3, args.size, args.size, device=device).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, args.classes, (args.batch,), device=device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
            loss = torch.nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def run(steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    run(5)
    print(json.dumps({"images_per_s": args.batch * args.steps / run(args.steps)}))


if __name__ == "__main__":
    main()
