"""Made-up runs of the other modalities and kinds: texts, series, values, and several views of one thing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from made_run import Made, record

FROM = 180  # rows from here on are the test split
ROWS = 300
CALM = "the council met on Tuesday to discuss the new budget for schools and roads in the northern district"
LOUD = "you will not believe what they hid from us this shocking secret changes <everything> share before they"
CHANNELS = ["Fx", "Fy", "<z>", "Tx", "Ty", "Tz", "pos", "temperature", "idle"]


def save(folder: Path, y: Any, modality: str, names: list[str], units: list[str], **arrays: Any) -> None:
    folder.mkdir()
    n = len(y)
    np.save(folder / "y.npy", y)
    np.save(folder / "split.npy", np.repeat([0, 1, 2], [140, FROM - 140, n - FROM]).astype(np.uint8))
    np.save(folder / "group.npy", np.array([f"g{i // 3}" for i in range(n)]))
    preprocess = {"channels": CHANNELS} if modality == "series" else {}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    meta = {"names": names, "units": units, "modality": modality, "preprocess": preprocess, "skipped": []}
    (folder / "meta.json").write_text(json.dumps(meta))


def classes(run: Path, y: Any, names: list[str], wrong: list[int], question: str, probe: str) -> None:
    """Scores of a model that is right but for the test rows `wrong`, and of a baseline that is wrong in more."""
    index = np.arange(FROM, len(y))
    true = y[index]
    prob = np.full((len(true), len(names)), 0.06 / max(len(names) - 1, 1))
    prob[np.arange(len(true)), true] = 0.94
    for at, i in enumerate(wrong):
        prob[i - FROM] = 0.0
        prob[i - FROM, (y[i] + 1) % len(names)] = 0.97 - 0.05 * at
        prob[i - FROM, y[i]] = 0.03 + 0.05 * at
    said = prob.argmax(1)
    matrix = np.zeros((len(names), len(names)), int)
    np.add.at(matrix, (true, said), 1)
    simple = np.where(np.arange(len(true)) % 5 == 0, (true + 1) % len(names), true)
    common = float((true == np.bincount(true).argmax()).mean())
    recall = matrix.diagonal() / matrix.sum(1)
    f1 = 2 * matrix.diagonal() / (matrix.sum(0) + matrix.sum(1))
    content = {
        "task": run.parent.name, "run": run.name, "split": "test", "kind": "classes", "names": names, "units": [],
        "question": question,
        "metrics": {"accuracy": float((said == true).mean()), "balanced_accuracy": float(recall.mean()),
                    "macro_f1": float(f1.mean()), "auroc": 0.9871, "log_loss": 0.1234},
        "per_class": {n: {"precision": 0.9, "recall": float(recall[k]), "f1": float(f1[k]),
                          "support": int(matrix[k].sum())} for k, n in enumerate(names)},
        "confusion": matrix.tolist(),
        "baselines": [{"name": "most frequent class", "metrics": {"accuracy": common, "balanced_accuracy": 0.5}},
                      {"name": probe, "metrics": {"accuracy": float((simple == true).mean()),
                                                  "balanced_accuracy": 0.79, "macro_f1": 0.78}}],
        "calibration": {"temperature": 1.42, "ece_before": 0.061, "ece_after": 0.018},
    }  # fmt: skip
    (run / "metrics.json").write_text(json.dumps(content))
    ids = np.array([f"item {i}" for i in index])
    np.savez(run / "predictions.npz", index=index, y=true, prob=prob, id=ids, baseline=simple)


def texts(folder: Path) -> Made:
    """Invented articles, real or fake; another source where it is at chance."""
    rng = np.random.default_rng(0)
    y = (rng.random(ROWS) < 0.3).astype(np.int64)
    calm, loud = CALM.split(), LOUD.split()
    each = [" ".join(rng.choice(loud if k else calm, int(rng.integers(8, 220)))) for k in y]
    raw = [t.encode() for t in each]
    arrays = {"text": np.frombuffer(b"".join(raw), np.uint8), "offset": np.cumsum([0, *map(len, raw)]).astype(np.int64)}
    run, prepared = record(folder, "fakenews"), folder / "prepared"
    save(prepared, y, "text", ["real", "fake"], [], **arrays)
    wrong = [181, 200, 222, 240, 260]
    classes(run, y, ["real", "fake"], wrong, "Is this article fake or real?", "logistic regression on TF-IDF")
    looks = []
    for i in wrong:
        words = [(m, m + len(w)) for w in set(each[i].split()[:30]) for m in [each[i].index(w)]]
        spans = [[a, b, round(float(np.sin(3 * a + i)), 3)] for a, b in sorted(words)[:9]]
        looks.append({"index": i, "text": each[i], "spans": spans})
    (run / "looks.json").write_text(json.dumps(looks))
    other = {"source": "another publisher", "rows": 812, "unknown": {"satire": 31}, "date": "2026-01-02T10:00:00+00:00",
             "metrics": {"accuracy": 0.512, "balanced_accuracy": 0.503, "macro_f1": 0.44, "auroc": 0.52}}  # fmt: skip
    (run / "others.json").write_text(json.dumps([other]))
    return Made(run, prepared)


def series(folder: Path) -> Made:
    """Windows of nine channels, of which one says whether the part went in."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, ROWS)
    x = rng.normal(0, 1, (ROWS, 15, 9)).astype(np.float32).cumsum(1)
    x[:, :, 2] += 9 * np.sin(np.arange(15) / 3) * (y - 1)[:, None]
    x[:, :, 8] = 0.0
    run, prepared = record(folder, "wheel"), folder / "prepared"
    names = ["normal", "collision", "obstruction"]
    save(prepared, y, "series", names, [], x=x)
    wrong = [185, 190, 230, 231]
    classes(run, y, names, wrong, "Was the wheel put on correctly?", "logistic regression on the raw window")
    heat = np.zeros((15, 9))
    heat[4:9, 2], heat[9:12, 4] = 1.0, 0.4
    (run / "looks.json").write_text(json.dumps([{"index": i, "heat": heat.tolist()} for i in wrong]))
    return Made(run, prepared)


def plate(rng: Any, size: float) -> Any:
    """A bright disc on a dark table, uint8 (72, 96, 3)."""
    h, w = np.mgrid[:72, :96]
    middle = 36 + rng.normal(0, 4), 48 + rng.normal(0, 6)
    disc = ((h - middle[0]) ** 2 + (w - middle[1]) ** 2) < (8 + 24 * size) ** 2
    x = np.where(disc[..., None], [214, 148 + 60 * size, 90], [58, 62, 70]) + rng.normal(0, 9, (72, 96, 3))
    return np.clip(x, 0, 255).astype(np.uint8)


def values(folder: Path, *, views: int = 1, gain: float = 1.0) -> Made:
    """Plates of food, weight and volume. `gain` 0: no better than the baseline."""
    rng = np.random.default_rng(0)
    size = rng.random(ROWS)
    y = np.stack([60 + 300 * size, 80 + 420 * size + rng.normal(0, 30, ROWS)], 1).astype(np.float32)
    x = np.stack([np.stack([plate(rng, s) for _ in range(views)]) for s in size])
    run, prepared = record(folder, "nutrition"), folder / "prepared"
    names, units = ["weight", "volume"], ["g", "cm³"]
    save(prepared, y, "image", names, units, x=x if views > 1 else x[:, 0])
    index = np.arange(FROM, ROWS)
    true = y[index]
    simple = (true + rng.normal(0, 60, true.shape)).astype(np.float32)
    pred = (true + (1 - 0.6 * gain) * (simple - true) * rng.permuted(np.sign(simple - true), axis=0)).astype(np.float32)
    pred[4] += [400, 200]

    def figures(a: Any) -> dict[str, dict[str, float]]:
        off = np.abs(a - true).astype(float)
        return {
            n: {"mae": off[:, t].mean(), "rmse": float(((a - true)[:, t] ** 2).mean() ** 0.5),
                "r2": float(1 - ((a - true)[:, t] ** 2).mean() / true[:, t].var()), "mean": float(true[:, t].mean())}
            for t, n in enumerate(names)
        }  # fmt: skip

    def flat(a: Any) -> dict[str, float]:
        return {f"{n}_{k}": float(v) for n, f in figures(a).items() for k, v in f.items() if k != "mean"}

    content = {
        "task": "nutrition", "run": run.name, "split": "test", "kind": "values", "names": names, "units": units,
        "question": "How much is on this plate?", "metrics": flat(pred), "per_target": figures(pred),
        "baselines": [{"name": "mean value", "metrics": flat(np.broadcast_to(y[:140].mean(0), true.shape))},
                      {"name": "ridge regression on small pixels", "metrics": flat(simple)}],
    }  # fmt: skip
    (run / "metrics.json").write_text(json.dumps(content))
    ids = np.array([f"dish {i}" for i in index])
    np.savez(run / "predictions.npz", index=index, y=true, pred=pred, id=ids, baseline=simple)
    (run / "metrics.csv").write_text(
        "epoch,train_loss,val_loss,val_weight_mae,val_volume_mae,lr\n0,1,.9,80,90,.001\n1,.5,.6,60,71,.001\n2,.4,.5,50,66,.0005\n"
    )
    h, w = np.mgrid[:7, :9]
    heat = np.exp(-((h - 3) ** 2 + (w - 4) ** 2) / 4)
    several = heat if views == 1 else np.stack([heat] + [0.3 * heat] * (views - 1))
    (run / "looks.json").write_text(json.dumps([{"index": int(i), "heat": several.tolist()} for i in index]))
    return Made(run, prepared)


def sketches(folder: Path) -> Made:
    """Tiny pictures of two classes, one of them rare, with where the model looked."""
    rng = np.random.default_rng(0)
    y = (rng.random(ROWS) < 0.25).astype(np.int64)
    x = np.zeros((ROWS, 28, 28, 1), np.uint8)
    h, w = np.mgrid[:28, :28]
    ring = np.abs(np.hypot(h - 14, w - 14) - 9) < 1.2
    cross = (np.abs(h - w) < 2) | (np.abs(h + w - 27) < 2)
    for i in range(ROWS):
        x[i, ..., 0] = 255 * np.roll(cross if y[i] else ring, rng.integers(-3, 4, 2), (0, 1))
    run, prepared = record(folder, "sketches"), folder / "prepared"
    save(prepared, y, "image", ["ring", "cross"], [], x=x)
    wrong = [190, 191, 192, 205, 240]
    classes(run, y, ["ring", "cross"], wrong, "Which sign is this sketch?", "logistic regression on small pixels")
    heat = np.zeros((8, 8))
    heat[1:4, 3:6] = [[0.4, 1, 0.5], [0.2, 0.6, 0.3], [0, 0.1, 0]]
    (run / "looks.json").write_text(json.dumps([{"index": i, "heat": heat.tolist()} for i in wrong]))
    return Made(run, prepared)


KINDS = {
    "texts": texts,
    "series": series,
    "values": values,
    "views": lambda folder: values(folder, views=2),
    "sketches": sketches,
}
