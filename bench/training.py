"""Training against peers and against the step alone: ratios of alternating pairs, with their bars.

    python bench/training.py PHOTOS --peers /path/to/peers/bin/python               every row, about an hour
    python bench/training.py PHOTOS --rows step start tiny checkpoint               what needs no peers
    python bench/training.py PHOTOS --peers ... --rows full --backbones resnet18 --images 300 --pairs 1    a look
    python bench/training.py PHOTOS --peers ... --rows accuracy --weights FILE      are both as good? ten minutes a seed

PHOTOS is a folder with one folder a class (TrashNet's). The peers live in an environment of their own:

    uv venv --python 3.11 /path/to/peers
    uv pip install --python /path/to/peers/bin/python --compile-bytecode torch torchvision pytorch-lightning timm fastai

with the torch and timm that this project has (say torch==VERSION; the versions met are printed). What is not there is
skipped, and said.

rows        what is compared
full        images/s of full training, against Lightning + torchvision's ImageFolder (2 workers)
peers       the same, against fastai and against timm's own train loop (2 workers)
step        the same, against the step alone on random tensors with the best settings
frozen      a frozen backbone, 10 epochs: start of the process to weights on disk, and training by itself
start       start of the process to the end of the first step, against importing torch, pytorch_lightning and timm
tiny        steps/s of a tiny network on digits, against a raw loop with PyTorch's default AdamW, one thread
checkpoint  the share of its time that the loop is blocked by a checkpoint every 30 s
accuracy    test accuracy of full trainings, against Lightning + torchvision's ImageFolder: mean and spread over
            --seeds seeds of --accuracy-epochs epochs, --accuracy-backbone with --weights (else random ones); only when
            it is named. Its noise is two standard errors of the difference. Theirs then has our recipe throughout: its
            classifier starts at zero and gradients are clipped at 1.

Equal on all sides: the photos of each split, 224 x 224 squashed, backbone from random weights, batch, epochs, learning
rate, AdamW with its weight decay, warm-up and cosine, mirroring at random. Ours is `proj train` in a temporary project,
its data prepared beforehand (that time is printed apart). Images/s are of the training steps from the second epoch on,
an epoch's first fetch included, validation not; bench/peers/clock.py takes them on every side. Exit code 1 when a bar
is missed.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from training_accuracy import Equal
from training_accuracy import lines as equal_lines
from training_sides import Photos, SideError, Sides, Times, machine, versions
from training_table import Line, aligned, order, table

ROWS = ("full", "peers", "step", "frozen", "start", "tiny", "checkpoint", "accuracy")
BARS = ROWS[:-1]  # what runs unless rows are named
FULL = {"mobilenetv3_small_100": 2.2, "resnet18": 2.2, "tf_efficientnet_lite0": 2.5}
PEERS, STEP, FROZEN, FROZEN_ALONE, START, TINY, BLOCKED = 1.8, 0.93, 5.0, 20.0, 1.4, 0.5, 0.02
SCRIPTS = {"lightning": "lightning_folder.py", "fastai": "fastai_learner.py", "timm": "timm_train.py"}
NEEDS = {
    "lightning": ("torch", "torchvision", "pytorch_lightning", "timm"),
    "fastai": ("torch", "fastai", "timm"),
    "timm": ("torch", "torchvision", "timm"),
}
SMALLEST = "mobilenetv3_small_100"  # of the rows that take one backbone
LARGEST = "resnet18"  # its checkpoints are
IMAGES = 900  # of the rows that repeat a full training, unless --images says otherwise
CHECKPOINT_S = 30.0
IMPORTS = "import torch, pytorch_lightning, timm"
# No augmentation but mirroring, no average of weights: what all sides can do alike.
ALIKE = [
    "model.input_size_px=0", "model.ema_decay=0", "model.label_smoothing=0", "augment.mixup=0",
    "augment.rotate_deg=0", "augment.shift=0", "augment.scale=0", "augment.brightness=0", "augment.contrast=0",
]  # fmt: skip
LR, WEIGHT_DECAY = 1e-3, 0.05


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Bench:
    """What the rows share: the sides, the photos, and the plain figures of everything that ran."""

    def __init__(self, args: argparse.Namespace, sides: Sides, met: dict[str, str]) -> None:
        self.args, self.sides, self.met = args, sides, met
        self.made: dict[int, Photos] = {}
        self.ran: list[dict[str, Any]] = []
        self.settings: dict[str, dict[str, Any]] = {}  # what our rules settled, by backbone
        self.equal: list[Equal] = []

    def photos(self, default: int) -> Photos:
        images = default if self.args.images is None else self.args.images
        if images not in self.made:
            made = self.sides.photos(self.args.photos, images=images, size=self.args.size)
            n = ", ".join(f"{k} {v}" for k, v in made.rows.items())
            say(f"photos: {n}; prepared in {made.prepare_s:.1f} s (proj data, imports included)")
            self.made[images] = made
        return self.made[images]

    def ours(self, photos: Photos, backbone: str, epochs: int, *more: str) -> Times:
        words = [*photos.words, *ALIKE, f"model.backbone={backbone}", f"model.lr={LR}",
                 f"model.weight_decay={WEIGHT_DECAY}", f"trainer.batch_size={self.args.batch}",
                 f"trainer.max_epochs={epochs}", *more]  # fmt: skip
        found = self.sides.train(words)
        settled = self.sides.settled()
        self.settings[backbone] = {k: settled[k] for k in ("precision", "threads", "compile")}
        return found

    def peer(self, name: str, photos: Photos, backbone: str, epochs: int, *more: str) -> Times:
        words = ["--backbone", backbone, "--epochs", str(epochs), "--batch", str(self.args.batch), "--lr", str(LR),
                 "--weight-decay", str(WEIGHT_DECAY), "--workers", str(self.args.workers), *more]  # fmt: skip
        got = self.sides.peer(SCRIPTS[name], photos, words)
        rows = photos.rows["train"]  # fastai and timm leave out the last, smaller batch
        if got.images_an_epoch not in {rows, rows - rows % self.args.batch}:
            raise SideError(f"saw {got.images_an_epoch} images an epoch, not {rows}")
        return got

    def step(self, photos: Photos, backbone: str) -> float:
        """Images/s, for as many steps as the others are timed for."""
        settled = self.settings[backbone]
        steps = (self.args.epochs - 1) * -(-photos.rows["train"] // self.args.batch)
        flags = ["--bf16"] * ("bf16" in str(settled["precision"])) + ["--compile"] * (settled["compile"] == "always")
        said = self.sides.loop("step_alone.py", "--backbone", backbone, "--batch", str(self.args.batch),
                               "--size", str(self.args.size), "--steps", str(steps), "--device", self.sides.device,
                               "--threads", str(settled["threads"]), *flags, best=True)  # fmt: skip
        return said["images_per_s"]

    def lacks(self, peer: str) -> str:
        """Why a peer cannot run, or ""."""
        if peer in NEEDS and self.sides.peers is None:
            return "not measured: no --peers"
        missing = [n for n in NEEDS.get(peer, ()) if n not in self.met]
        return f"not measured: the peers' environment has no {', '.join(missing)}" if missing else ""

    def rounds(
        self,
        what: str,
        sides: dict[str, Callable[[], Any]],
        lines: dict[str, Line],
        figure: Callable[[Any], float] = float,
    ) -> list[dict[str, Any]]:
        """Every side once a round, there and back; the `figure` of ours and of another side go to that side's line.

        A side that does not run drops out, and its line says why. Ours has to run.
        """
        found: list[dict[str, Any]] = []
        for i in range(self.args.pairs):
            got: dict[str, Any] = {}
            for name in order([n for n in sides if n == "ours" or not lines[n].missing], i):
                start = time.monotonic()
                try:
                    got[name] = sides[name]()
                except SideError as e:
                    if name == "ours":
                        raise
                    lines[name].missing = "did not run: " + str(e).splitlines()[-1]
                    say(f"{what}: {name} did not run: {e}")
                    continue
                shown = _shown(got[name])
                say(f"{what}, round {i + 1} of {self.args.pairs}: {name} {shown} ({time.monotonic() - start:.0f} s)")
                self.ran.append({"what": what, "round": i, "side": name, **_plain(got[name])})
            for name in [n for n in got if n != "ours"]:
                lines[name].add(figure(got["ours"]), figure(got[name]))
            found.append(got)
        return found


def _plain(value: Any) -> dict[str, Any]:
    if isinstance(value, Times):
        return asdict(value)
    return value if isinstance(value, dict) else {"value": value}


def _shown(value: Any) -> str:
    if isinstance(value, Times):
        speed = f"{value.images_per_s:.1f} images/s, {value.steps_per_s:.1f} steps/s"
        return f"{speed}, whole {value.whole_s:.1f} s, test accuracy {value.accuracy:.3f}"
    if isinstance(value, dict):
        return ", ".join(f"{k} {v:.1f}" for k, v in value.items())
    return f"{value:.1f}"


def full(bench: Bench) -> Iterator[Line]:
    """Rows full, peers and step: one of our trainings a round serves them all."""
    rows, epochs = bench.args.rows, bench.args.epochs
    photos = bench.photos(IMAGES)
    for backbone in bench.args.backbones:
        bars = {"lightning": FULL.get(backbone, PEERS)} if "full" in rows else {}
        bars |= {"fastai": PEERS, "timm": PEERS} if "peers" in rows else {}
        bars |= {"the step alone": STEP} if "step" in rows else {}
        what = f"full training, {backbone}"
        against = {name: Line(what, name, bar, "images/s", missing=bench.lacks(name)) for name, bar in bars.items()}
        sides: dict[str, Callable[[], Any]] = {
            "ours": partial(bench.ours, photos, backbone, epochs, "augment.flip=true")
        }
        for name in [name for name, line in against.items() if not line.missing]:
            peer = partial(bench.peer, name, photos, backbone, epochs, "--flip")
            sides[name] = peer if name in SCRIPTS else partial(bench.step, photos, backbone)
        yield from against.values()
        if len(sides) > 1:
            bench.rounds(backbone, sides, against, images_per_s)


def images_per_s(side: Times | float) -> float:
    return side.images_per_s if isinstance(side, Times) else side


def frozen(bench: Bench) -> Iterator[Line]:
    whole = Line(f"frozen {SMALLEST}, {bench.args.frozen_epochs} epochs, process to weights", "lightning", FROZEN, "s")
    alone = Line("the same, training by itself, features included", "lightning", FROZEN_ALONE, "s")
    if missing := bench.lacks("lightning"):
        whole.missing = alone.missing = missing
    yield from (whole, alone)
    if missing:
        return
    photos, epochs = bench.photos(0), bench.args.frozen_epochs

    def ours() -> Times:
        bench.sides.forget_features()
        words = ("model.freeze=true", "model.feature_views=1", "augment.flip=false")
        return bench.ours(photos, SMALLEST, epochs, *words)

    sides = {"ours": ours, "lightning": lambda: bench.peer("lightning", photos, SMALLEST, epochs, "--freeze")}
    for got in bench.rounds("frozen", sides, {"lightning": whole}, lambda x: x.whole_s):
        if "lightning" in got:
            alone.add(got["ours"].training_s, got["lightning"].training_s)
    alone.missing = whole.missing


def start(bench: Bench) -> Iterator[Line]:
    yield (line := Line("start of the process to the first step's end", "imports", START, "s", least=False))
    photos = bench.photos(IMAGES)
    words = [*photos.words, *ALIKE, f"model.backbone={SMALLEST}", f"trainer.batch_size={bench.args.batch}"]

    def imports() -> float:
        began = time.time()
        bench.sides.code(IMPORTS)
        return time.time() - began

    sides = {"ours": lambda: bench.sides.first_step(words), "imports": imports}
    for side in sides.values():  # once unseen: files come into memory
        side()
    bench.rounds("start", sides, {"imports": line})


def tiny(bench: Bench) -> Iterator[Line]:
    """Digits at their own 8 pixels, at the default's 32, and a head alone, whose step is next to nothing."""
    from proj.data import store

    batch, epochs = bench.args.batch, bench.args.tiny_epochs
    cases: dict[str, tuple[list[str], list[str], int]] = {
        "digits at 8 px": ([], [], epochs),
        "digits at 32 px": (["model.input_size_px=32"], ["--size", "32"], epochs),
        "digits, a head on features": (["model.freeze=true"], ["--freeze"], 10 * epochs),
    }
    for case, (more, asked, n) in cases.items():
        words = ["task=digits", "model.backbone=test_resnet", *ALIKE, "trainer.threads=1",
                 f"trainer.batch_size={batch}", f"trainer.max_epochs={n}", *more]  # fmt: skip
        prepared = store.open_(Path(bench.sides.proj("data", *words)["prepared"]))
        rows = prepared.rows("train")
        data = bench.sides.folder / "digits.npz"
        np.savez(data, x=np.asarray(prepared.x)[rows], y=prepared.y[rows])
        loop = ["--data", str(data), "--backbone", "test_resnet", "--batch", str(batch), "--epochs", str(n), *asked]
        sides: dict[str, Callable[[], Any]] = {
            "ours": partial(bench.sides.train, words),
            "raw": partial(bench.sides.loop, "tiny_loop.py", *loop),
        }
        yield (line := Line(f"tiny network, {case}", "a raw loop", TINY, "steps/s"))
        bench.rounds(case, sides, {"raw": line}, steps_per_s)


def steps_per_s(side: Times | dict[str, float]) -> float:
    return side.steps_per_s if isinstance(side, Times) else side["steps_per_s"]


def checkpoint(bench: Bench) -> Iterator[Line]:
    """Written more often than every 30 s, so that a short training has several; each blocks as long as it does."""
    what = f"checkpoint every {CHECKPOINT_S:.0f} s, {LARGEST}: blocked"
    yield (line := Line(what, "its time", BLOCKED, "s", least=False))
    photos = bench.photos(IMAGES)
    for _ in range(bench.args.pairs):
        got = bench.ours(photos, LARGEST, bench.args.epochs, "trainer.checkpoint_every_min=0.05")
        blocked = blocked_s((bench.sides.last / "train.log").read_text(encoding="utf-8"))
        if not blocked:
            line.missing = "not measured: no line `checkpoint ... blocked X ms` in train.log"
            continue
        say(f"checkpoint: {len(blocked)} in {got.training_s:.0f} s, blocked {statistics.mean(blocked) * 1000:.0f} ms "
            f"on average, {max(blocked) * 1000:.0f} ms at most")  # fmt: skip
        bench.ran.append({"what": "checkpoint", "side": "ours", "blocked_s": blocked, **_plain(got)})
        line.add(statistics.mean(blocked), CHECKPOINT_S)


def blocked_s(log: str) -> list[float]:
    """Seconds for which each checkpoint of a run's log held up the loop."""
    return [float(ms) / 1000 for ms in re.findall(r"checkpoint.* blocked ([0-9.]+) ms", log)]


def accuracy(bench: Bench) -> Iterator[Line]:
    """A seed after the other, there and back. Nothing of it is a line: what counts are means and spreads."""
    yield from ()
    args, photos = bench.args, bench.photos(0)
    made = f"{'given' if args.weights else 'random'} weights, {args.accuracy_epochs} epochs, {args.seeds} seeds"
    found = Equal(f"{args.accuracy_backbone}, {made}", "lightning", photos.rows["test"])
    found.missing = bench.lacks("lightning")
    bench.equal.append(found)
    if found.missing:
        return
    file = [f"model.weights='{args.weights.resolve()}'"] if args.weights else []
    theirs = ["--zero-head", "--clip", "1", *(["--weights", str(args.weights.resolve())] if args.weights else [])]
    training = (photos, args.accuracy_backbone, args.accuracy_epochs)
    for seed in range(args.seeds):
        sides = {
            "ours": partial(bench.ours, *training, "augment.flip=true", f"seed={seed}", *file),
            "lightning": partial(bench.peer, "lightning", *training, "--flip", "--seed", str(seed), *theirs),
        }
        for name in order(list(sides), seed):
            got = sides[name]()
            say(f"accuracy, seed {seed}: {name} {_shown(got)}")
            bench.ran.append({"what": f"accuracy, {args.accuracy_backbone}", "side": name, "seed": seed, **_plain(got)})
            (found.ours if name == "ours" else found.theirs).append(got.accuracy)


def accuracies(ran: list[dict[str, Any]]) -> list[str]:
    """Test accuracy and whole-process seconds of every side, medians over the rounds."""
    rows = [["training", "side", "test accuracy", "process to weights"]]
    keys = dict.fromkeys((r["what"], r["side"]) for r in ran if "accuracy" in r and r["what"] != "checkpoint")
    for what, side in keys:
        those = [r for r in ran if (r["what"], r["side"]) == (what, side)]
        accuracy, whole = (statistics.median(r[k] for r in those) for k in ("accuracy", "whole_s"))
        rows.append([what, side, f"{accuracy:.3f}", f"{whole:.1f} s"])
    return aligned(rows) if len(rows) > 1 else []


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="a folder with one folder a class")
    parser.add_argument("--peers", type=Path, metavar="PYTHON", help="of the peers' environment")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(BARS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--backbones", nargs="+", default=list(FULL), metavar="NAME", help="of full, peers and step")
    parser.add_argument("--pairs", type=int, default=3, help="rounds; every second one runs backwards")
    parser.add_argument("--images", type=int, help=f"photos, 0: all; default: {IMAGES}, with frozen all")
    parser.add_argument("--epochs", type=int, default=3, help="of a full training; the first is not timed")
    parser.add_argument("--frozen-epochs", type=int, default=10)
    parser.add_argument("--tiny-epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=3, help="of the row accuracy")
    parser.add_argument("--accuracy-epochs", type=int, default=8)
    parser.add_argument("--accuracy-backbone", default="mobilenetv2_100", metavar="NAME")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="of --accuracy-backbone, .safetensors")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=224, help="pixels of both sides")
    parser.add_argument("--workers", type=int, default=2, help="of the peers' loaders")
    parser.add_argument("--threads", type=int, default=0, help="on every side; 0: each side's own choice")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--limit", type=float, default=1800, metavar="SECONDS", help="that one process may take")
    parser.add_argument("--json", type=Path, metavar="FILE", help="everything that was measured")
    args = parser.parse_args(words)
    for name, least in {
        "pairs": 1,
        "epochs": 2,
        "frozen_epochs": 1,
        "tiny_epochs": 2,
        "batch": 2,
        "size": 32,
        "seeds": 1,
        "accuracy_epochs": 1,
    }.items():
        if getattr(args, name) < least:
            parser.error(f"--{name.replace('_', '-')} must be {least} or more")
    if args.images is not None and args.images < 0:
        parser.error("--images must be 0 or more")
    if not args.photos.is_dir():
        parser.error(f"{args.photos} is not a folder")
    if args.weights and not args.weights.is_file():
        parser.error(f"{args.weights} is not a file")
    return args


def main() -> int:
    args = arguments()
    rows: dict[str, Callable[[Bench], Iterator[Line]]] = {
        "full": full, "peers": full, "step": full, "frozen": frozen, "start": start, "tiny": tiny,
        "checkpoint": checkpoint, "accuracy": accuracy,
    }  # fmt: skip
    lines: list[Line] = []
    failed = False
    try:
        here, met = versions(sys.executable), versions(str(args.peers)) if args.peers else {}
    except SideError as e:
        sys.exit(f"error: {e}")
    for name, found in {"ours": here, "peers": met}.items():
        print(f"{name}: " + (", ".join(f"{k} {v}" for k, v in found.items()) or "no environment (--peers)"))
    if met and met.get("torch") != here["torch"]:
        print("the two sides have different versions of torch: their ratios are not of the code alone")
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        # Not resolved: a venv's python is a link, and known by where it lies.
        peers = args.peers.absolute() if args.peers else None
        sides = Sides(Path(folder), peers=peers, threads=args.threads, device=args.device, limit_s=args.limit)
        bench = Bench(args, sides, met)
        for do in dict.fromkeys(rows[r] for r in ROWS if r in args.rows):
            try:
                for line in do(bench):
                    lines.append(line)  # before its measurement: what a failure leaves undone is still a line
            except SideError as e:  # the other rows are still worth an hour
                say(f"error: {do.__name__}: {e}")
                failed = True
    shown = [table(lines)] if lines else []
    shown += [aligned(equal_lines(bench.equal))] if bench.equal else []
    print("\n\n".join("\n".join(part) for part in [*shown, accuracies(bench.ran)] if part))
    for backbone, settled in bench.settings.items():
        print(f"our rules settled for {backbone}: " + ", ".join(f"{k} {v}" for k, v in settled.items()))
    if args.json:
        asked = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
        made = [{"rows": p.rows, "prepare_s": p.prepare_s, "block": p.block} for p in bench.made.values()]
        content = {"machine": machine(), "versions": {"ours": here, "peers": met}, "asked": asked, "photos": made,
                   "settled": bench.settings, "lines": [x.content() for x in lines],
                   "equal": [x.content() for x in bench.equal], "ran": bench.ran}  # fmt: skip
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return int(failed or any(x.holds is False for x in [*lines, *bench.equal]))


if __name__ == "__main__":
    sys.exit(main())
