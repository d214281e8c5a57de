"""`proj predict`: answers for files, folders, globs and standard input, from a bundle alone."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger

from proj import console, infer
from proj.errors import InputError, UsageError
from proj.preprocess import IMAGE_SUFFIXES

BATCH = 32


def inputs(words: list[str]) -> list[Path | str]:
    """The files that the words name, in order: files, folders (searched through), globs; "-" is standard input."""
    found: list[Path | str] = []
    for word in words:
        path = Path(word)
        if word == "-":
            found.append(word)
        elif path.is_dir():
            found += _folder(path)
        elif glob.has_magic(word) and not path.exists():
            matches = sorted(glob.glob(word, recursive=True))
            if not matches:
                raise UsageError(f"nothing matches {word!r}")
            found += [Path(m) for m in matches if Path(m).is_file()]
        else:
            found.append(path)
    if not found:
        raise UsageError("no pictures to answer for", found=f"looked in {', '.join(words)}")
    return found


def _folder(path: Path) -> list[Path]:
    files = sorted(p for p in path.rglob("*") if p.is_file())
    wanted = [p for p in files if p.suffix.lower() in IMAGE_SUFFIXES]
    if len(wanted) < len(files):
        logger.info("{}: {} files that are not pictures left out", path, len(files) - len(wanted))
    return wanted


def predict(bundle: Path, sources: list[Path | str]) -> Iterator[dict[str, Any]]:
    """One answer for each input, in order; an input that cannot be read has "error" in place of an answer."""
    model = infer.load(bundle)
    if model.manifest.warning:
        logger.warning("{}: {}", model.manifest.model, model.manifest.warning)
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        console.progress(len(sources), "predict", "inputs") as bar,
    ):
        for part in _parts(sources):
            decoded = list(pool.map(lambda s: _decode(model, s), part))
            good = [d for d in decoded if isinstance(d, np.ndarray)]
            y = iter(infer.run(model, np.stack(good)) if good else ())
            for source, d in zip(part, decoded, strict=True):
                name = "-" if source == "-" else Path(source).as_posix()
                if isinstance(d, np.ndarray):
                    yield infer.encode(model, next(y), name)
                else:
                    yield {"input": name, "error": str(d), "model": model.manifest.model}
            bar.update(len(part))


def _parts(sources: list[Path | str]) -> Iterable[list[Path | str]]:
    it = iter(sources)
    while part := list(islice(it, BATCH)):
        yield part


def _decode(model: infer.Model, source: Path | str) -> Any:
    try:
        return infer.decode(model, sys.stdin.buffer.read() if source == "-" else Path(source))
    except InputError as e:
        return e


def show(answers: list[dict[str, Any]]) -> list[str]:
    """The answers as a table."""
    if any("values" in a for a in answers):
        names = next(list(a["values"]) for a in answers if "values" in a)
        header = ["input", *names]
        rows = [
            [a["input"], *(f"{a['values'][n]['value']:.1f} {a['values'][n]['unit']}" for n in names)]
            if "values" in a
            else [a["input"], "error: " + a["error"], *[""] * (len(names) - 1)]
            for a in answers
        ]
        return console.table(header, rows)
    return console.table(
        ["input", "label", "confidence"],
        [
            [a["input"], a["label"], f"{a['confidence']:.3f}"]
            if "label" in a
            else [a["input"], "error: " + a["error"], ""]
            for a in answers
        ],
    )
