"""Two trainings of one config end in equal weights, bit for bit: an image, a text and a series task, twice each.

    python bench/reproducibility.py                     on the tasks' own sample rows, some three minutes
    python bench/reproducibility.py --tasks text        a look
    python bench/reproducibility.py --source image=PHOTOS --source text=POSTS.csv    on real data

Each training is a `proj train` process of its own in a temporary project of its own, with dropout and augmentation on;
the second one has other loads beside it (--load processes that compute) and the system's own allocator, which must
change nothing. Compared are the hashes of best.ckpt's and last.ckpt's weights, of the test split's answers and of the
exported graph. Exit code 1 when one differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TASKS = {
    "image": ["task=trashnet", "model=small", "augment.mixup=0.2", "model.drop_rate=0.2", "model.drop_path_rate=0.1"],
    "frozen": ["task=trashnet", "model=small", "model.freeze=true", "model.feature_views=2", "model.drop_rate=0.2"],
    "text": ["task=fakenews", "model=small", "augment.token_drop=0.1", "model.drop_rate=0.2"],
    "series": ["task=wheel", "model=small", "augment.jitter=0.05", "model.drop_rate=0.2"],
}
BUSY = "import math\nwhile True: math.sqrt(2.0)"


def train(words: list[str], load: int, allocator: str) -> dict[str, str]:
    """Hashes of what a training ends in. `allocator`: as PROJ_ALLOCATOR names it; "": the fastest."""
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(load)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "proj", "train", *words, "--json"]
            env = {**os.environ, "PROJ_ALLOCATOR": allocator}
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=env)
            if done.returncode:
                sys.exit(done.stderr[-4000:])
            return hashes(Path(json.loads(done.stdout)["run"]))
    finally:
        for one in busy:
            one.kill()
            one.wait()


def hashes(run: Path) -> dict[str, str]:
    import numpy as np
    import torch

    found = {}
    for name in ("best", "last"):
        h = hashlib.sha256()
        state = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]
        for key, value in sorted(state.items()):
            h.update(key.encode() + value.contiguous().numpy().tobytes())
        found[f"{name} weights"] = h.hexdigest()[:12]
    with np.load(run / "predictions.npz") as saved:
        key = "prob" if "prob" in saved else "pred"
        found["answers"] = hashlib.sha256(saved[key].tobytes()).hexdigest()[:12]
    found["graph"] = hashlib.sha256((run / "bundle/model.onnx").read_bytes()).hexdigest()[:12]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of every training, as proj train takes them")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="default: all four")
    parser.add_argument("--epochs", type=int, default=3, help="default 3")
    parser.add_argument("--load", type=int, default=1, help="processes that compute beside the second training")
    parser.add_argument("--source", action="append", default=[], metavar="TASK=PATH",
                        help="real data of one of --tasks; repeatable")  # fmt: skip
    args = parser.parse_args()
    sources = dict(s.split("=", 1) for s in args.source)
    odd = 0
    print(f"{'task':<7}  {'what':<12}  {'first':<12}  {'second':<12}")
    for task in args.tasks:
        source = str(Path(sources[task]).resolve()) if task in sources else "sample"
        words = [*TASKS[task], f"data.source={source}", f"trainer.max_epochs={args.epochs}", *args.overrides]
        first, second = train(words, 0, ""), train(words, args.load, "off")
        for what, value in first.items():
            same = value == second[what]
            odd += not same
            print(f"{task:<7}  {what:<12}  {value}  {second[what]}  {'equal' if same else 'DIFFERENT'}", flush=True)
    sys.exit(f"{odd} differ" if odd else 0)


if __name__ == "__main__":
    main()
