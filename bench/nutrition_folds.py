"""Weight and volume of food from one photo and from two, cross-validated by object: errors, and what beats what.

    python bench/nutrition_folds.py PHOTOS WEIGHTS.safetensors
    python bench/nutrition_folds.py PHOTOS WEIGHTS.safetensors --folds 2 trainer.max_epochs=1    a look
    python bench/nutrition_folds.py PHOTOS WEIGHTS.safetensors --project FOLDER    features stay there

PHOTOS is a folder with labels.csv (image, object_id, view, weight_g, volume_cm3). It is two `proj train` with folds, in
a temporary project with this repository's configs: one photo an input, then a photo from the side and one from above.
All comparisons are of the same photos, and each object's rows are drawn together: 95 % of 10,000 bootstrap draws.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
DRAWS = 10_000
TARGETS = ["weight_g", "volume_cm3"]


@dataclass(frozen=True)
class Answers:
    """Predictions of all folds. `id`, `object`: str (N,); the others float (N, T), in units."""

    id: Array
    object: Array
    y: Array
    model: Array
    pixels: Array
    mean: Array
    folds: list[dict[str, Any]]
    minutes: float


def train(folder: Path, words: list[str]) -> Answers:
    """One `proj train` with folds, and all that it predicted."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "proj", "train", *words, "--json"], cwd=folder, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        sys.exit(done.returncode)
    minutes = (time.monotonic() - start) / 60
    said = json.loads(done.stdout)
    run = folder / said["run"]
    prepared = folder / json.loads((run / "run.json").read_text())["prepared"]
    with np.load(run / "predictions.npz", allow_pickle=False) as p:
        index, y, id_, pred, pixels = (p[k] for k in ("index", "y", "id", "pred", "baseline"))
    objects, whole = np.load(prepared / "group.npy")[index], np.load(prepared / "y.npy")
    mean = np.zeros_like(pred)
    for i in range(len(said["folds"])):
        tested = json.loads((run / f"folds/{i}/split.json").read_text())["test_groups"]
        rows = np.isin(objects, tested)
        mean[rows] = whole[~np.isin(np.load(prepared / "group.npy"), tested)].mean(0)
    return Answers(id_, objects, y, pred, pixels, mean, said["folds"], minutes)


def gain(worse: Array, better: Array, objects: Array) -> tuple[Array, Array, Array]:
    """How much smaller the mean of `better` is, with the ends of its 95 % interval. Errors (N, T); each result (T,)."""
    _, of = np.unique(objects, return_inverse=True)
    diff = np.stack([np.bincount(of, column) for column in (worse - better).T], 1)  # (objects, T)
    rows = np.bincount(of)
    drawn = np.random.default_rng(0).integers(0, len(rows), (DRAWS, len(rows)))
    means = diff[drawn].sum(1) / rows[drawn].sum(1)[:, None]
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    return (worse - better).mean(0), low, high


def on_the_same_photos(two: Answers, one: Answers) -> tuple[Array, Array]:
    """For each input of several photos: the mean error of its single photos, and the error of their mean answer."""
    at = {i: n for n, i in enumerate(one.id.tolist())}
    rows = [[at[i] for i in pair.split(" + ")] for pair in two.id.tolist()]
    errors = np.abs(one.model - one.y)
    single = np.stack([errors[r].mean(0) for r in rows])
    averaged = np.abs(np.stack([one.model[r].mean(0) for r in rows]) - two.y)
    return single, averaged


def show_errors(name: str, a: Answers) -> None:
    print(f"\n{name}: {len(a.y)} inputs of {len(np.unique(a.object))} objects, {a.minutes:.1f} minutes, all included")
    print(f"  {'mean absolute error':<26}" + "".join(f"{t:>22}" for t in TARGETS))
    by_fold = np.array([[f["metrics"][f"{t.rpartition('_')[0]}_mae"] for t in TARGETS] for f in a.folds])
    cells = (f"{m:.1f} ± {s:.1f}" for m, s in zip(by_fold.mean(0), by_fold.std(0, ddof=1), strict=True))
    print(f"  {'model, mean of folds':<26}" + "".join(f"{c:>22}" for c in cells))
    for what, said in (("model, all inputs", a.model), ("mean value", a.mean), ("ridge on small pixels", a.pixels)):
        print(f"  {what:<26}" + "".join(f"{e:>22.1f}" for e in np.abs(said - a.y).mean(0)))


def show_gain(what: str, worse: Array, better: Array, objects: Array) -> bool:
    """Prints by how much it is better; true when the intervals of all targets lie above 0."""
    by, low, high = gain(worse, better, objects)
    cells = (f"{b:.1f} [{lo:.1f}, {hi:.1f}]" for b, lo, hi in zip(by, low, high, strict=True))
    print(f"  {what:<26}" + "".join(f"{c:>22}" for c in cells))
    return bool((low > 0).all())


def compare(one: Answers, two: Answers) -> bool:
    print("\nsmaller error by, with the 95 % interval of a paired bootstrap over objects")
    error = np.abs(one.model - one.y)
    single, averaged = on_the_same_photos(two, one)
    error_two = np.abs(two.model - two.y)
    won = [
        show_gain("one photo than mean", np.abs(one.mean - one.y), error, one.object),
        show_gain("one photo than pixels", np.abs(one.pixels - one.y), error, one.object),
        show_gain("two photos than one", single, error_two, two.object),
    ]
    show_gain("two than mean of answers", averaged, error_two, two.object)
    return all(won)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="a folder with labels.csv")
    parser.add_argument("weights", type=Path, help="a .safetensors or .pt file")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--project", type=Path, help="a folder that keeps data and features for the next time")
    args = parser.parse_args()
    words = [
        "experiment=ecustfd", f"data.source='{args.photos.resolve()}'", f"model.weights='{args.weights.resolve()}'",
        f"trainer.folds={args.folds}", f"task.targets=[{','.join(TARGETS)}]", *args.overrides,
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.project or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        one = train(folder, [*words, "task.views=1"])
        two = train(folder, [*words, "task.views=2"])
    show_errors("one photo", one)
    show_errors("two photos", two)
    sys.exit(0 if compare(one, two) else 1)


if __name__ == "__main__":
    main()
