"""Batches from a prepared data set: slices of the memory map, in an order that (seed, epoch) decides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from proj.data import split as splits
from proj.data import statistics
from proj.data.store import Prepared

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class View:
    """One way of splitting prepared data: row indices of each split, and the training split's statistics."""

    prepared: Prepared
    train: Array
    val: Array
    test: Array
    mean: list[float]
    std: list[float]

    @property
    def shape(self) -> tuple[int, int, int]:
        return tuple(self.prepared.x.shape[1:])

    @property
    def outputs(self) -> int:
        return len(self.prepared.meta.names)


def view(prepared: Prepared) -> View:
    """The split that prepare decided."""
    train, val, test = (prepared.rows(n) for n in splits.NAMES)
    return View(prepared, train, val, test, prepared.meta.mean, prepared.meta.std)


def fold_views(prepared: Prepared, k: int, *, seed: int, val_share: float) -> list[View]:
    """`k` views whose test parts cover all groups, each with its own statistics."""
    views = []
    for split in splits.folds(prepared.group.tolist(), k, seed=seed, val_share=val_share):
        train, val, test = (np.flatnonzero(split == s) for s in (splits.TRAIN, splits.VAL, splits.TEST))
        views.append(View(prepared, train, val, test, *statistics.channels(prepared.x, train)))
    return views


class Batches:
    """(x, y) tensors of the given rows. `x`: any array by row; shuffled by (seed, epoch) when a seed is given.

    Whoever iterates sets `epoch` first (LitModel does). A single row left at the end of a shuffled pass joins the
    batch before it: batch normalisation cannot learn from one row.
    """

    def __init__(self, x: Array, y: Array, rows: Array, size: int, *, seed: int | None = None, limit: int = 0) -> None:
        self.x, self.y, self.rows, self.size, self.seed = x, y, rows, size, seed
        self.limit = limit
        self.epoch = 0

    def __len__(self) -> int:
        return min(self._whole(), self.limit) if self.limit else self._whole()

    def _whole(self) -> int:
        n = len(self.rows)
        lone = self.seed is not None and n > self.size and n % self.size == 1
        return -(-n // self.size) - lone

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        rows = self.rows
        if self.seed is not None:
            rows = np.random.default_rng((self.seed, self.epoch)).permutation(rows)
        for i in range(len(self)):
            part = rows[i * self.size : None if i == self._whole() - 1 else (i + 1) * self.size]
            yield torch.from_numpy(np.ascontiguousarray(self.x[part])), torch.from_numpy(self.y[part])


class DataModule(pl.LightningDataModule):
    """Batches of one view. `x` and `y` replace the pictures by features of a frozen backbone, rows and all."""

    def __init__(self, train: Batches, val: Batches) -> None:
        super().__init__()
        self.train, self.val = train, val

    def train_dataloader(self) -> Batches:
        return self.train

    def val_dataloader(self) -> Batches:
        return self.val
