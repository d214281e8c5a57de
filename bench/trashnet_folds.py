"""TrashNet with a frozen backbone, cross-validated by blocks of neighbouring photos: accuracy and minutes.

    python bench/trashnet_folds.py PHOTOS WEIGHTS.safetensors
    python bench/trashnet_folds.py PHOTOS WEIGHTS.safetensors --folds 2 trainer.max_epochs=1    a look

It is one `proj train` in a temporary project with this repository's configs; then one training on the single split
that prepare made, for its time (the features are computed anew: its project is another one).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def train(folder: str, words: list[str]) -> tuple[dict[str, Any], float]:
    """What `proj train --json` says, and the seconds of the whole command."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "proj", "train", *words, "--json"], cwd=folder, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        sys.exit(done.returncode)
    return json.loads(done.stdout), time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="a folder or archive with one folder a class")
    parser.add_argument("weights", type=Path, help="a .safetensors or .pt file")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--backbone", default="mobilenetv2_100", help="what the weights are of")
    parser.add_argument("--folds", type=int, default=5)
    args = parser.parse_args()
    words = [
        "task=trashnet", "model=pretrained", f"model.backbone={args.backbone}", "model.freeze=true",
        f"data.source='{args.photos.resolve()}'", f"model.weights='{args.weights.resolve()}'", *args.overrides,
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        said, seconds = train(folder, [*words, f"trainer.folds={args.folds}"])
    print(f"{'fold':<4}  {'rows':>5}  {'accuracy':>8}  {'macro_f1':>8}  {'seconds':>7}")
    for f in said["folds"]:
        m = f["metrics"]
        print(f"{f['fold']:<4}  {f['rows']:>5}  {m['accuracy']:>8.4f}  {m['macro_f1']:>8.4f}  {f['seconds']:>7.1f}")
    print(f"mean accuracy {said['mean']['accuracy']:.4f}, standard deviation {said['std']['accuracy']:.4f}; "
          f"{seconds / 60:.1f} minutes for all folds, data preparation and imports included")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        said, seconds = train(folder, words)
    print(f"one split: accuracy {said['metrics']['accuracy']:.4f}; {seconds / 60:.1f} minutes, all included")


if __name__ == "__main__":
    main()
