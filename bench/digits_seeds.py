"""Accuracy of the default task over training seeds, and in the hard case: the last fifth of the rows as test.

    python bench/digits_seeds.py                         five seeds of each, some minutes
    python bench/digits_seeds.py --seeds 1 --cases hash  a look
    python bench/digits_seeds.py model.lr=5e-3           with overrides

Each training is a `proj train` of its own, in a temporary project with this repository's configs. A linear model on
the raw pixels (logistic regression) has 0.90 in the hard case.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CASES = {"hash": [], "tail": ["data.split=tail", "data.test_share=0.2"]}


def train(folder: Path, words: list[str]) -> tuple[float, float]:
    """Test accuracy and seconds of the whole command, imports included."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "proj", "train", *words, "--json"], cwd=folder, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        sys.exit(done.returncode)
    return json.loads(done.stdout)["metrics"]["accuracy"], time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    args = parser.parse_args()
    if args.seeds < 1:
        parser.error("--seeds must be 1 or more")
    print(f"{'split':<6}  {'seed':>4}  {'accuracy':>8}  {'seconds':>7}")
    means = []
    with tempfile.TemporaryDirectory() as folder:
        for case in args.cases:
            found = []
            for seed in range(args.seeds):
                accuracy, seconds = train(Path(folder), [*CASES[case], f"seed={seed}", *args.overrides])
                found.append(accuracy)
                print(f"{case:<6}  {seed:>4}  {accuracy:>8.4f}  {seconds:>7.1f}", flush=True)
            spread = statistics.stdev(found) if len(found) > 1 else 0.0
            means.append(f"{case:<6}  mean {statistics.mean(found):.4f}, standard deviation {spread:.4f}, "
                         f"from {min(found):.4f} to {max(found):.4f}")  # fmt: skip
    print("\n".join(means))


if __name__ == "__main__":
    main()
