"""A training that is killed again and again ends in the weights of one that was left alone, bit for bit.

    python bench/resume.py                                  25 kills of each case, some 20 minutes
    python bench/resume.py --kills 3 --epochs 6 --cases threads    a look
    python bench/resume.py --photos FOLDER --cases frozen   a frozen backbone over photos in place of digits

Each process is a `proj train --resume auto` of its own, killed by SIGKILL at a random moment of its training; every
third one is killed while a checkpoint is half-written. Beside the weights it compares metrics.csv, and the rows that
each step saw: of several processes that did a step the last one counts, and each epoch must be one permutation.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CASES = {
    "plain": ["augment.mixup=0.2", "model.drop_rate=0.2", "model.ema_decay=0.99"],
    "threads": ["augment.mixup=0.2", "model.drop_rate=0.2", "model.ema_decay=0.99", "trainer.workers=2"],
    "frozen": ["model.freeze=true", "model.feature_views=2", "augment.mixup=0.2", "model.drop_rate=0.2"],
    "uncached": ["model.freeze=true", "model.cache=false", "model.drop_rate=0.2"],
}
LONGEST_S = 600


def child(log: str, args: list[str]) -> None:
    """`proj` in this process, which writes the epoch, index and rows of each batch that it is given into `log`."""
    from proj import cli
    from proj.train import data

    cut = data.Batches.__iter__

    def noted(self: data.Batches) -> Any:
        epoch, first, order = self.epoch, self.skip, self.order()
        for i, batch in enumerate(cut(self), first):
            if self.seed is not None:
                with Path(log).open("a", encoding="utf-8") as f:
                    f.write(json.dumps([epoch, i, order[i].tolist()]) + "\n")
            yield batch

    data.Batches.__iter__ = noted  # type: ignore[method-assign]
    cli.main(args)


def start(folder: Path, words: list[str], log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, __file__, "--child", str(log), "train", "--resume", "auto", *words]
    with (folder / "said.log").open("ab") as said:
        return subprocess.Popen(command, cwd=folder, stdout=said, stderr=said)


def finish(process: subprocess.Popen[bytes], folder: Path) -> None:
    if process.wait(timeout=LONGEST_S):
        sys.exit((folder / "said.log").read_text()[-4000:])


def run_of(folder: Path) -> Path:
    return next((folder / "models").glob("*/*/run.json")).parent


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_once(folder: Path, words: list[str], log: Path, rng: random.Random, *, writing: bool) -> bool:
    """Start, wait until it trains, kill. False when it had finished before."""
    before = lines(log)
    process = start(folder, words, log)
    until = time.monotonic() + LONGEST_S
    while lines(log) == before and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    moment = time.monotonic() + rng.uniform(0.1, 2.5)
    while process.poll() is None and time.monotonic() < moment:
        time.sleep(0.002)
    while writing and process.poll() is None and not list((run_of(folder) / "checkpoints").glob("*.tmp")):
        pass
    alive = process.poll() is None
    process.send_signal(signal.SIGKILL) if alive else None
    process.wait()
    return alive


def check_rows(log: Path, epochs: int) -> int:
    """Each epoch one permutation of the same rows, by the last process that did each step. Returns the steps done."""
    seen: dict[int, dict[int, list[int]]] = {}
    done = 0
    for line in log.read_text().splitlines():
        try:
            epoch, i, rows = json.loads(line)
        except ValueError:
            continue  # the line that a killed process was writing
        seen.setdefault(epoch, {})[i] = rows
        done += 1
    each = [sorted(r for _, rows in sorted(seen[e].items()) for r in rows) for e in range(epochs)]
    assert all(len(set(rows)) == len(rows) and rows == each[0] for rows in each), "an epoch is no permutation"
    return done


def same(a: Path, b: Path) -> None:
    """Weights of both checkpoints and the journals of two runs, bit for bit (but for seconds)."""
    import torch

    for name in ("best.ckpt", "last.ckpt"):
        x, y = (torch.load(run / "checkpoints" / name, weights_only=True)["state_dict"] for run in (a, b))
        odd = [k for k in x if not torch.equal(x[k], y[k])]
        assert x.keys() == y.keys(), f"{name} has other weights"
        assert not odd, f"{name} differs in {odd[:3]}"
    journals = []
    for run in (a, b):
        with (run / "metrics.csv").open(newline="") as f:
            journals.append([{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(f)])
    assert journals[0] == journals[1], "metrics.csv differs"
    scores = [json.loads((run / "metrics.json").read_text())["metrics"] for run in (a, b)]
    assert scores[0] == scores[1], "the test split's scores differ"


def case(name: str, words: list[str], kills: int, epochs: int, seed: int) -> None:
    rng = random.Random(seed)
    words = [*words, *CASES[name], f"trainer.max_epochs={epochs}", "trainer.checkpoint_every_steps=3"]
    with tempfile.TemporaryDirectory() as whole, tempfile.TemporaryDirectory() as cut:
        begun = time.monotonic()
        alone, log = Path(whole), Path(whole) / "rows.log"
        finish(start(alone, words, log), alone)
        alone_s, steps = time.monotonic() - begun, check_rows(log, epochs)
        folder, log = Path(cut), Path(cut) / "rows.log"
        killed = half = 0
        for i in range(kills):
            if not kill_once(folder, words, log, rng, writing=i % 3 == 2):
                break
            killed += 1
            half += bool(list((run_of(folder) / "checkpoints").glob("*.tmp")))
        finish(start(folder, words, log), folder)
        done = check_rows(log, epochs)
        same(run_of(alone), run_of(folder))
    print(f"{name:<9}  {killed:>5}  {half:>12}  {steps:>5}  {done - steps:>10}  {alone_s:>7.0f}  equal", flush=True)


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of every training, as proj train takes them")
    parser.add_argument("--kills", type=int, default=25, help="of each case; default 25")
    parser.add_argument("--epochs", type=int, default=60, help="so many that all kills fall into them; default 60")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="default: all four")
    parser.add_argument("--photos", type=Path, help="a folder of class folders; default: digits")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    os.environ["NO_COLOR"] = "1"
    photos = ["task=trashnet", "model=small", f"data.source={args.photos.resolve()}"] if args.photos else []
    print("case       kills  half-written  steps  done again  seconds  weights, journal, scores, rows")
    for name in args.cases:
        case(name, [*photos, *args.overrides], args.kills, args.epochs, args.seed)


if __name__ == "__main__":
    main()
