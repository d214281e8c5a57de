"""A tiny network in a raw loop: rows in memory, PyTorch's default AdamW, one thread, nothing else.

Prints {"steps_per_s": ...}. Run by bench/training.py.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a .npz: x uint8 (N, H, W, C), y (N,)")
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=0, help="pixels of the longer side; 0: as it is")
    parser.add_argument("--freeze", action="store_true", help="only a linear head learns, on features computed once")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with np.load(args.data, allow_pickle=False) as file:
        x, y = torch.from_numpy(file["x"]), torch.from_numpy(file["y"])
    classes = int(y.max()) + 1
    net = timm.create_model(args.backbone, pretrained=False, in_chans=x.shape[-1], num_classes=classes)
    x = x.permute(0, 3, 1, 2).float() / 255
    x = (x - x.mean()) / x.std()
    if args.freeze:
        with torch.inference_mode():
            features = net.eval().forward_head(net.forward_features(x), pre_logits=True)
        x = features.clone()
        net = torch.nn.Linear(x.shape[1], classes)
    optimizer = torch.optim.AdamW(net.parameters())

    def epoch() -> None:
        order = torch.randperm(len(x))
        for rows in order.split(args.batch):
            batch = F.interpolate(x[rows], size=(args.size, args.size), mode="bilinear") if args.size else x[rows]
            loss = F.cross_entropy(net(batch), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    net.train()
    epoch()
    start = time.perf_counter()
    for _ in range(args.epochs - 1):
        epoch()
    steps = (args.epochs - 1) * -(-len(x) // args.batch)
    print(json.dumps({"steps_per_s": steps / (time.perf_counter() - start)}))


if __name__ == "__main__":
    main()
