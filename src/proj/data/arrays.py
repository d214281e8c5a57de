"""Rows to arrays on disk: pictures and series decoded into one memory map, texts cleaned and joined."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from loguru import logger

from proj import console
from proj.errors import DataError, InputError
from proj.preprocess import series, text, views
from proj.preprocess.spec import ImageSpec, TextSpec

if TYPE_CHECKING:
    from proj.config import Config
    from proj.preprocess.spec import Spec
    from proj.task import Row

Skipped = list[dict[str, str]]


def size_bytes(rows: list[Row], spec: Spec) -> float:
    """What `write` will take on the disk, with some room; of texts an estimate is not needed."""
    if isinstance(spec, TextSpec):
        return 0.0
    return len(rows) * int(np.prod(spec.shape)) * (1 if isinstance(spec, ImageSpec) else 4) * 1.05


def write(rows: list[Row], spec: Spec, folder: Path, cfg: Config) -> tuple[list[Row], Skipped]:
    """Write x.npy, or text.npy and offset.npy. Returns the rows that could be read and the others with their reasons.

    Raises DataError when more than `data.max_broken_share` of them cannot be read.
    """
    reasons: dict[int, str] = {}
    one: Callable[[int], None]
    if isinstance(spec, TextSpec):
        texts = [b""] * len(rows)

        def one(i: int) -> None:
            texts[i] = text.clean(rows[i].x, spec).encode()  # type: ignore[arg-type]
    else:
        dtype = np.uint8 if isinstance(spec, ImageSpec) else np.float32
        shape = (len(rows), *spec.shape)
        x = np.lib.format.open_memmap(folder / "x.npy", mode="w+", dtype=dtype, shape=shape)

        def one(i: int) -> None:
            given: Any = rows[i].x
            x[i] = views.decode(given, spec) if isinstance(spec, ImageSpec) else series.decode(given, spec)

    def tried(i: int) -> None:
        try:
            one(i)
        except InputError as e:
            reasons[i] = str(e)

    # Threads: Pillow lets go of the interpreter lock while it decodes and resizes.
    with (
        ThreadPoolExecutor(cfg.data.workers or os.cpu_count()) as pool,
        console.progress(len(rows), "prepare", "rows") as bar,
    ):
        for _ in pool.map(tried, range(len(rows))):
            bar.update()
    skipped = _skipped(rows, reasons, cfg)
    good = [i for i in range(len(rows)) if i not in reasons]
    if isinstance(spec, TextSpec):
        _write_texts([texts[i] for i in good], folder)
    elif skipped:
        _write_some(x, good, folder)
    else:
        x.flush()
    return [rows[i] for i in good], skipped


def _skipped(rows: list[Row], reasons: dict[int, str], cfg: Config) -> Skipped:
    skipped = [{"id": rows[i].id, "reason": reasons[i]} for i in sorted(reasons)]
    for s in skipped[:10]:
        logger.warning("skipped {}: {}", s["id"], s["reason"])
    if len(skipped) > cfg.data.max_broken_share * len(rows):
        raise DataError(
            f"{len(skipped)} of {len(rows)} inputs cannot be read, the first is {skipped[0]['id']}",
            found=f"{skipped[0]['reason']}; data.max_broken_share allows {cfg.data.max_broken_share:.1%}",
            next="mend or remove them (`proj data check FOLDER` lists all), or raise data.max_broken_share",
        )
    return skipped


def _write_texts(texts: list[bytes], folder: Path) -> None:
    offset = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(t) for t in texts], out=offset[1:])
    np.save(folder / "text.npy", np.frombuffer(b"".join(texts), np.uint8))
    np.save(folder / "offset.npy", offset)


def _write_some(x: np.ndarray[Any, Any], good: list[int], folder: Path) -> None:
    shape = (len(good), *x.shape[1:])
    whole = np.lib.format.open_memmap(folder / "x.whole.npy", mode="w+", dtype=x.dtype, shape=shape)
    for to, i in enumerate(good):  # row by row: the whole may not fit into memory
        whole[to] = x[i]
    whole.flush()
    os.replace(folder / "x.whole.npy", folder / "x.npy")
