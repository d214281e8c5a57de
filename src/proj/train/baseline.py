"""What a model must beat: simple methods on the same rows, in seconds."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from proj.answers import off_by

if TYPE_CHECKING:
    from proj.data.store import Prepared

Array = np.ndarray[Any, np.dtype[Any]]
MOST_ROWS = {"image": 5_000, "series": 5_000, "text": 20_000}  # of the training split; a baseline takes seconds
LARGEST_PROBLEM = 500_000  # rows times classes of a logistic regression
GREY_PX, COLOUR_PX = 28, 16  # longer side of what a linear probe sees
STRENGTH = {"image": 0.03, "series": 0.1, "text": 10.0}  # C of the logistic regression
PROBES = {"image": "small pixels", "text": "TF-IDF", "series": "the raw window"}


def baselines(prepared: Prepared, train: Array, test: Array) -> tuple[list[dict[str, Any]], Array | None]:
    """[{"name", "metrics"}, ...] for metrics.json, the simplest first, and what the strongest says of `test`.

    `train` and `test` are row indices. Metrics have the model's own names. What the strongest says: int64 (len(test),)
    classes, or float32 (len(test), T) values in their units; None when there is no row to train or test on.
    """
    from threadpoolctl import threadpool_limits

    if not len(train) or not len(test):
        return [], None
    score = _values if prepared.meta.kind == "values" else _classes
    with threadpool_limits(1):  # these matrices are small: a second thread can cost fifty times what it gains
        return score(prepared, train, test)


def _classes(prepared: Prepared, train: Array, test: Array) -> tuple[list[dict[str, Any]], Array | None]:
    y, truth = prepared.y[train], prepared.y[test]
    common = np.full(len(test), np.bincount(y).argmax(), np.int64)
    said = [("most frequent class", common)]
    if len(np.unique(y)) > 1:
        modality = prepared.meta.modality
        kept = _some(train, min(MOST_ROWS[modality], max(1_000, LARGEST_PROBLEM // len(prepared.meta.names))))
        a, b = _features(prepared, kept, test)
        name = f"logistic regression on {PROBES[modality]}"
        said.append((name, _logistic(a, prepared.y[kept], b, STRENGTH[modality])))
    made = [{"name": name, "metrics": class_metrics(s, truth)} for name, s in said]
    strongest = max(said, key=lambda pair: float((pair[1] == truth).mean()))
    return made, strongest[1]


def _values(prepared: Prepared, train: Array, test: Array) -> tuple[list[dict[str, Any]], Array | None]:
    y, truth = prepared.y[train].astype(np.float64), prepared.y[test]
    said = [("mean value", np.tile(y.mean(0), (len(test), 1)).astype(np.float32))]
    if len(train) > 2:
        modality = prepared.meta.modality
        kept = _some(train, MOST_ROWS[modality])
        a, b = _features(prepared, kept, test)
        said.append((f"ridge regression on {PROBES[modality]}", _ridge(a, prepared.y[kept], b)))
    names = prepared.meta.names
    made = [{"name": name, "metrics": value_metrics(s, truth, names)} for name, s in said]
    strongest = min(said, key=lambda pair: float(off_by(pair[1], truth).mean()))
    return made, strongest[1]


def _some(rows: Array, most: int) -> Array:
    """At most `most` of the rows, drawn with a fixed seed, in order."""
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, most, replace=False))


def _features(prepared: Prepared, train: Array, test: Array) -> tuple[Any, Any]:
    """What a linear model reads of these rows: float (n, F), for texts sparse."""
    if prepared.meta.modality == "text":
        return _tfidf(prepared.x[train], prepared.x[test])
    make = small_pixels if prepared.meta.modality == "image" else _flat
    a, b = make(prepared.x, train), make(prepared.x, test)
    mean, std = a.mean(0), a.std(0)
    std[std < 1e-6] = 1.0  # a pixel that is always the same says nothing
    return (a - mean) / std, (b - mean) / std


def _flat(x: Array, rows: Array) -> Array:
    return np.nan_to_num(np.asarray(x[rows], np.float64)).reshape(len(rows), -1)


def small_pixels(x: Array, rows: Array) -> Array:
    """float64 (len(rows), h * w * C) in 0..1: pictures of 28 (grey) or 16 px (colour), of several views the first."""
    from PIL import Image

    h, w, c = x.shape[-3:]
    scale = min(1.0, (GREY_PX if c == 1 else COLOUR_PX) / max(h, w))
    size = (max(1, round(w * scale)), max(1, round(h * scale)))
    out = np.empty((len(rows), size[1] * size[0] * c))
    for to, i in enumerate(rows):  # row by row: the whole may not fit into memory
        pixels = np.asarray(x[i, 0] if x.ndim == 5 else x[i])
        if scale < 1:
            img = Image.fromarray(pixels[..., 0] if c == 1 else pixels)
            pixels = np.asarray(img.resize(size, Image.Resampling.BOX))
        out[to] = pixels.reshape(-1) / 255
    return out


def _tfidf(train: list[str], test: list[str]) -> tuple[Any, Any]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectors = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, min_df=2 if len(train) >= 100 else 1, max_features=200_000,
        token_pattern=r"(?u)\b\w+\b",
    )  # fmt: skip
    try:
        return vectors.fit_transform(train), vectors.transform(test)
    except ValueError:  # not one word in all the texts
        return np.zeros((len(train), 1)), np.zeros((len(test), 1))


def _logistic(a: Any, y: Array, b: Any, strength: float) -> Array:
    """Class index of each row of `b`, int64."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # its last step is good enough to be beaten
        fitted = LogisticRegression(C=strength, max_iter=100).fit(a, y)
    return np.asarray(fitted.predict(b), np.int64)


def _ridge(a: Any, y: Array, b: Any) -> Array:
    """float32 (rows of b, T): how strongly to hold back is chosen by leaving out one training row at a time."""
    from sklearn.linear_model import RidgeCV

    dense = [m.toarray() if hasattr(m, "toarray") else m for m in (a, b)]
    spread = np.maximum(y.std(0, dtype=np.float64), 1e-12)  # no target outweighs another in the choice
    fitted = RidgeCV(alphas=np.logspace(0, 5, 11)).fit(dense[0], y / spread)
    return np.asarray(fitted.predict(dense[1]).reshape(len(dense[1]), -1) * spread, np.float32)


def class_metrics(said: Array, y: Array) -> dict[str, float]:
    """Accuracy, its mean over the classes that are there, and macro F1 over those asked for or answered."""
    there, asked = np.union1d(said, y), np.unique(y)
    hits = {k: int(((said == k) & (y == k)).sum()) for k in there.tolist()}
    of, answered = ({k: int((a == k).sum()) for k in there.tolist()} for a in (y, said))
    return {
        "accuracy": float((said == y).mean()),
        "balanced_accuracy": float(np.mean([hits[k] / of[k] for k in asked.tolist()])),
        "macro_f1": float(np.mean([2 * hits[k] / (of[k] + answered[k]) for k in there.tolist()])),
    }


def value_metrics(pred: Array, y: Array, names: list[str]) -> dict[str, float]:
    """NAME_mae, NAME_rmse in the target's unit, and NAME_r2."""
    off, truth = pred.astype(np.float64) - y, y.astype(np.float64)
    found: dict[str, float] = {}
    for t, name in enumerate(names):
        square = float((off[:, t] ** 2).mean())
        found[f"{name}_mae"] = float(np.abs(off[:, t]).mean())
        found[f"{name}_rmse"] = square**0.5
        found[f"{name}_r2"] = 1 - square / max(float(truth[:, t].var()), 1e-24)
    return found
