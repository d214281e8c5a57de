"""Images/s of the input against the number of workers: mapped rows in whole batches, beside decoding each photo.

    python bench/input.py [PHOTOS] [--plot input.png] [--workers 0 1 2 4] [--rounds 5]
    python bench/input.py --each            each kind of augmentation by itself: the figures of docs/augmentation.md

Five ways to batches of 32, in turns within each round, so that a busy machine slows them alike:

    rows        `Batches` alone: uint8 rows of prepared photos, as they lie in the memory map
    pixels      the same, brought to float (B, 3, 224, 298) in 0..1: what a training without augmentation reads
    flipped     the same, and each photo mirrored or not: what task=trashnet does
    augmented   the same, and turned, shifted, scaled, brighter and darker: what task=trashnet model=small does
    pillow      a DataLoader (its workers are processes, already started) over Pillow's decoding and resizing to the
                same floats, without any augmentation

Without PHOTOS (a folder, searched through) synthetic JPEGs of 384 x 288 are made. All files are in the page cache. The
table has the median of the rounds, and the lowest and highest; the plot has these as bars. With --each batches of 32
random RGB pictures of 224 x 224 are changed on one thread.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from proj.config import Augment
from proj.preprocess import views
from proj.preprocess.spec import ImageSpec
from proj.train import augment, mix
from proj.train.data import Batches
from proj.train.images import Pixels
from proj.train.memory import keep_freed

SPEC = ImageSpec(height_px=224, width_px=298)
SIZE = 32
AUGMENT = {
    "flipped": Augment(flip=True),
    "augmented": Augment(flip=True, rotate_deg=15, shift=0.1, scale=0.2, brightness=0.2, contrast=0.2),
}
EACH = {
    "flip": Augment(flip=True),
    "rotate_deg, shift, scale": Augment(rotate_deg=15, shift=0.1, scale=0.2),
    "crop": Augment(crop=0.35),
    "brightness, contrast": Augment(brightness=0.2, contrast=0.2),
    "and saturation, hue_deg": Augment(brightness=0.2, contrast=0.2, saturation=0.2, hue_deg=10),
    "randaugment=1": Augment(randaugment=1),
    "randaugment=2": Augment(randaugment=2),
    "grid_dropout": Augment(grid_dropout=0.3),
    "mixup": Augment(mixup=0.2),
    "cutmix": Augment(cutmix=1.0),
    "flip, crop, brightness, contrast": Augment(flip=True, crop=0.35, brightness=0.2, contrast=0.2),
}
WAYS = ("rows", "pixels", *AUGMENT, "pillow")
Rates = dict[tuple[str, int], list[float]]


class Photos(Dataset[torch.Tensor]):
    """The plain way: each photo is decoded and resized whenever it is asked for."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> torch.Tensor:
        with Image.open(self.files[i]) as photo:
            small = photo.convert("RGB").resize((SPEC.width_px, SPEC.height_px), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(small)).permute(2, 0, 1).float().div(255)


def photos(folder: Path | None, most: int, made: Path) -> list[Path]:
    """At most so many JPEGs of `folder`, evenly chosen; or synthetic ones, as large as real photos are."""
    if folder is not None:
        found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in {".jpg", ".jpeg"})
        if not found:
            sys.exit(f"no JPEG under {folder}")
        return found[:: max(1, len(found) // most)][:most]
    rng = np.random.default_rng(0)
    for i in range(most):
        coarse = Image.fromarray(rng.integers(0, 256, (18, 24, 3), dtype=np.uint8)).resize((384, 288))
        noisy = np.asarray(coarse, np.int16) + rng.integers(-12, 12, (288, 384, 3), dtype=np.int16)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(made / f"{i}.jpg", quality=85)
    return sorted(made.glob("*.jpg"))


def prepared(files: list[Path], folder: Path) -> np.ndarray[Any, Any]:
    """The photos as `proj data` keeps them, mapped."""
    path = folder / "x.npy"
    x = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(len(files), *SPEC.shape))
    for i, file in enumerate(files):
        x[i] = views.decode(file, SPEC)
    x.flush()
    mapped: np.ndarray[Any, Any] = np.load(path, mmap_mode="r")
    return mapped


def rate(passes: Callable[[], Iterable[int]], seconds: float) -> float:
    """Images/s over whole passes, for at least so long. `passes` gives the batches' sizes of one."""
    n, start = 0, time.perf_counter()
    while True:
        n += sum(passes())
        took = time.perf_counter() - start
        if took >= seconds:
            return n / took


def ours(x: np.ndarray[Any, Any], workers: int, way: str) -> Callable[[], Iterable[int]]:
    """A pass over shuffled batches, in another order each time."""
    n = len(x)
    batches = Batches(x, np.zeros(n, np.int64), np.arange(n), SIZE, seed=0, workers=workers)
    pixels = Pixels(SPEC.view_shape, 0)

    def one_pass() -> Iterable[int]:
        batches.epoch += 1
        for step, (part, _) in enumerate(batches):
            if way != "rows":
                floats = pixels(part)
                if way in AUGMENT:
                    augment.pictures(floats, AUGMENT[way], augment.generator(batches.epoch, step))
            yield len(part)

    return one_pass


def plain(files: list[Path], workers: int) -> Callable[[], Iterable[int]]:
    loader = DataLoader(Photos(files), SIZE, shuffle=True, num_workers=workers, persistent_workers=workers > 0)

    def one_pass() -> Iterable[int]:
        return (len(part) for part in loader)

    if workers:
        sum(one_pass())  # the processes are there, which a training waits for once
    return one_pass


def measure(files: list[Path], x: np.ndarray[Any, Any], workers: list[int], rounds: int, seconds: float) -> Rates:
    """Every way with every number of workers once a round, every second round from the end."""
    cells = [(way, w) for way in WAYS for w in workers]
    rates: Rates = {cell: [] for cell in cells}
    for i in range(rounds):
        for way, w in reversed(cells) if i % 2 else cells:
            rates[way, w].append(rate(plain(files, w) if way == "pillow" else ours(x, w, way), seconds))
        print(f"round {i + 1} of {rounds}", file=sys.stderr)
    return rates


def each(rounds: int, seconds: float) -> None:
    """Images/s of each kind of augmentation, in turns: median, lowest and highest of the rounds."""
    torch.set_num_threads(1)
    keep_freed()  # as a training does
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (SIZE, 224, 224, 3), dtype=np.uint8))
    x, y = Pixels((224, 224, 3), 0)(pixels), torch.eye(6)[torch.arange(SIZE) % 6]
    rates: dict[str, list[float]] = {name: [] for name in EACH}
    for i in range(rounds):
        for name in reversed(EACH) if i % 2 else EACH:

            def one_pass(a: Augment = EACH[name]) -> Iterable[int]:
                for step in range(4):
                    g = augment.generator(0, step)
                    mix.mixed(augment.pictures(x, a, g), y, a, g)
                    yield SIZE

            rates[name].append(rate(one_pass, seconds))
        print(f"round {i + 1} of {rounds}", file=sys.stderr)
    for name, r in rates.items():
        print(f"{name:<34}{statistics.median(r):>8,.0f} ({min(r):,.0f} to {max(r):,.0f}) images/s")


def show(rates: Rates, workers: list[int]) -> None:
    print(f"{'images/s':<10}" + "".join(f"{f'{w} workers':>26}" for w in workers))
    for way in WAYS:
        cells = [rates[way, w] for w in workers]
        said = [f"{statistics.median(r):,.0f} ({min(r):,.0f} to {max(r):,.0f})" for r in cells]
        print(f"{way:<10}" + "".join(f"{s:>26}" for s in said))
    for way in ("pixels", *AUGMENT):
        best = max(statistics.median(rates["pillow", w]) for w in workers)
        print(f"{way}, no workers / pillow's best: {statistics.median(rates[way, workers[0]]) / best:.1f}")


def draw(rates: Rates, workers: list[int], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for i, (way, mark) in enumerate(zip(WAYS, "osdv^", strict=True)):
        cells = [rates[way, w] for w in workers]
        middle = [statistics.median(r) for r in cells]
        low = [m - min(r) for m, r in zip(middle, cells, strict=True)]
        high = [max(r) - m for m, r in zip(middle, cells, strict=True)]
        beside = [w + (i - 2) * 0.04 for w in workers]  # bars that do not hide each other
        axes.errorbar(beside, middle, yerr=[low, high], marker=mark, capsize=4, label=way)
    axes.set(yscale="log", xticks=workers, xlabel="workers", ylabel="images/s")
    axes.set_title(f"Input of {SPEC.height_px} x {SPEC.width_px} photos: median, lowest to highest of "
                   f"{len(rates['rows', workers[0]])} rounds", fontsize=10)  # fmt: skip
    axes.grid(axis="y", which="both", alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="?")
    parser.add_argument("--plot", type=Path, metavar="PNG")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.7, help="of each measurement, at least")
    parser.add_argument("--each", action="store_true", help="kinds of augmentation")
    parser.add_argument("--most", type=int, default=512, help="photos")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message="This DataLoader will create")  # more than there are cores: that is shown
    if args.each:
        each(args.rounds, args.seconds)
        return
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made"
        made.mkdir()
        files = photos(args.photos, args.most, made)
        x = prepared(files, Path(folder))
        print(f"{len(files)} photos, batches of {SIZE}, {torch.get_num_threads()} threads of torch, "
              f"median (lowest to highest) of {args.rounds} rounds")  # fmt: skip
        rates = measure(files, x, args.workers, args.rounds, args.seconds)
    show(rates, args.workers)
    if args.plot:
        draw(rates, args.workers, args.plot)


if __name__ == "__main__":
    main()
