"""Views of prepared data: who is in which split, and inputs as the network takes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from proj import runs
from proj.bundle import TOKENIZER
from proj.data import split as splits
from proj.data import statistics
from proj.preprocess import spec as specs
from proj.preprocess.spec import TextSpec
from proj.train import tokens
from proj.train.data import View

if TYPE_CHECKING:
    from proj.config import Model
    from proj.data.store import Prepared
    from proj.preprocess.spec import Spec

PREPROCESS = "preprocess.json"
Array = np.ndarray[Any, np.dtype[Any]]


def view(
    prepared: Prepared, m: Model, cache: Path | None = None, *, spec: Spec | None = None, tokenizer: Any = None
) -> View:
    """The split that prepare decided. `spec`, `tokenizer`: a trained model's own, where there is one.

    Texts' ids are kept under `cache`.
    """
    train, val, test = (prepared.rows(n) for n in splits.NAMES)
    meta = prepared.meta
    stats = (meta.mean, meta.std, meta.target_mean, meta.target_std)
    return View(prepared, train, val, test, *_inputs(prepared, train, m, cache, spec, tokenizer), *stats)


def keep(view: View, run: Path) -> None:
    """Leave in the run how its texts became ids: preprocess.json and, where there is one, tokenizer.json."""
    runs.write_json(run / PREPROCESS, view.spec.to_dict())
    if view.tokenizer is not None:
        view.tokenizer.save(str(run / TOKENIZER))


def kept(run: Path) -> bool:
    """Does the run know already how its inputs reach the network?"""
    return (run / PREPROCESS).is_file()


def of_run(prepared: Prepared, m: Model, run: Path, cache: Path | None = None) -> View:
    """The view that a run was trained on, with its own tokenizer."""
    from tokenizers import Tokenizer

    spec = specs.read(prepared.meta.modality, runs.read_json(run / PREPROCESS, prepared.meta.preprocess))
    tokenizer = Tokenizer.from_file(str(run / TOKENIZER)) if (run / TOKENIZER).is_file() else None
    return view(prepared, m, cache, spec=spec, tokenizer=tokenizer)


def fold_views(
    prepared: Prepared, k: int, m: Model, *, seed: int, val_share: float, cache: Path | None = None
) -> Iterator[View]:
    """`k` views whose test parts cover all groups, each with its own statistics."""
    for split in splits.folds(prepared.group.tolist(), k, seed=seed, val_share=val_share):
        train, val, test = (np.flatnonzero(split == s) for s in (splits.TRAIN, splits.VAL, splits.TEST))
        own = (*statistics.channels(prepared.x, train), *statistics.targets(prepared.y, train))
        yield View(prepared, train, val, test, *_inputs(prepared, train, m, cache, None, None), *own)


def elsewhere(prepared: Prepared, of: View, m: Model, cache: Path | None = None) -> View:
    """Another source's rows, all of them to test on, as the network of the view `of` takes them."""
    none = np.zeros(0, np.int64)
    inputs = _inputs(prepared, none, m, cache, of.spec, of.tokenizer)
    rest = (of.mean, of.std, of.target_mean, of.target_std)
    return View(prepared, none, none, np.arange(len(prepared.y)), *inputs, *rest)


def _inputs(
    prepared: Prepared, train: Array, m: Model, cache: Path | None, spec: Spec | None, tokenizer: Any
) -> tuple[Any, Spec, Any]:
    spec = spec or specs.read(prepared.meta.modality, prepared.meta.preprocess)
    if isinstance(spec, TextSpec):
        own = cache / prepared.meta.task if cache else None
        ids, spec, tokenizer = tokens.tokenise(m, spec, prepared.x, train, own, tokenizer)
        return ids, spec, tokenizer
    return prepared.x, spec, None
