"""`proj predict`: answers for files, folders, globs and standard input, from a bundle alone."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger

from proj import console, infer
from proj.errors import InputError
from proj.verbs import inputs
from proj.verbs.inputs import Item

BATCH = 32


def predict(bundle: Path, words: list[str], *, views: bool = False) -> Iterator[dict[str, Any]]:
    """One answer for each input, in order; an input that cannot be read has "error" in place of an answer.

    `words` are the command's, see `inputs.find`; with `views` all of them are one input. Raises UsageError for words
    that name nothing, or that the model cannot take together.
    """
    model = infer.load(bundle, threads=0)
    if model.manifest.warning:
        logger.warning("{}: {}", model.manifest.model, model.manifest.warning)
    if views:
        yield from _answers(model, [inputs.together(words, model.spec)])
        return
    files = inputs.find(words, model.manifest.modality)
    # A picture is a file; how many rows a table has is known once it was read.
    total = len(files) if model.manifest.modality == "image" else 0
    with console.progress(total, "predict", "inputs") as bar:
        for answer in _answers(model, (item for file in files for item in inputs.items(file, model.spec))):
            yield answer
            bar.update()


def _answers(model: infer.Model, items: Iterable[Item]) -> Iterator[dict[str, Any]]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for part in _parts(items):
            decoded = list(pool.map(lambda item: _decode(model, item), part))
            good = [d for d in decoded if isinstance(d, np.ndarray)]
            y = iter(infer.run(model, infer.batch(good)) if good else ())
            for item, d in zip(part, decoded, strict=True):
                if isinstance(d, np.ndarray):
                    yield infer.encode(model, next(y), item.name)
                else:
                    yield {"input": item.name, "error": str(d), "model": model.manifest.model}


def _parts(items: Iterable[Item]) -> Iterator[list[Item]]:
    it = iter(items)
    while part := list(islice(it, BATCH)):
        yield part


def _decode(model: infer.Model, item: Item) -> Any:
    try:
        return item.source if isinstance(item.source, InputError) else infer.decode(model, item.source)
    except InputError as e:
        return e


def show(answers: list[dict[str, Any]]) -> list[str]:
    """The answers as a table."""
    if any("values" in a for a in answers):
        names = next(list(a["values"]) for a in answers if "values" in a)
        return console.table(["input", *names], [_values(a, names) for a in answers])
    return console.table(["input", "label", "confidence"], [_label(a) for a in answers])


def _values(a: dict[str, Any], names: list[str]) -> list[str]:
    if "error" in a:
        return [a["input"], "error: " + a["error"], *[""] * (len(names) - 1)]
    return [a["input"], *(f"{_number(v['value'])} {v['unit']}".rstrip() for v in map(a["values"].get, names))]


def _number(v: float) -> str:
    return f"{v:.1f}" if abs(v) >= 10 else f"{v:.3g}"


def _label(a: dict[str, Any]) -> list[str]:
    if "error" in a:
        return [a["input"], "error: " + a["error"], ""]
    label = f"not sure ({max(a['probabilities'], key=a['probabilities'].get)}?)" if a["label"] is None else a["label"]
    return [a["input"], label, f"{a['confidence']:.3f}"]
