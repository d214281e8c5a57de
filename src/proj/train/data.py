"""Batches from a prepared data set: slices of the memory map, in an order that (seed, epoch) decides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
import torch

if TYPE_CHECKING:
    from proj.data.store import Prepared
    from proj.preprocess.spec import Modality, Spec

Array = np.ndarray[Any, np.dtype[Any]]
FROZEN_BATCH = 32  # rows that a frozen encoder sees at a time, always as many: see Net.encode_frozen


@dataclass(frozen=True)
class View:
    """One way of splitting prepared data: row indices of each split, and the training split's statistics.

    `x` is what batches are cut from: the prepared array, or a text's ids as `tokenizer` makes them (rows: as many as
    are prepared). `spec` is how an input reaches the network; what a text's tokenizer decided is in it.
    """

    prepared: Prepared
    train: Array
    val: Array
    test: Array
    x: Any
    spec: Spec
    tokenizer: Any
    mean: list[float]
    std: list[float]
    target_mean: list[float]
    target_std: list[float]

    @property
    def modality(self) -> Modality:
        return self.prepared.meta.modality

    @property
    def outputs(self) -> int:
        return len(self.prepared.meta.names)


class Batches:
    """(x, y) tensors of the given rows, shuffled by (seed, epoch) when a seed is given.

    `x`: whatever gives an array for an array of rows. Whoever iterates sets `epoch` first (LitModel does). A single row
    left at the end of a shuffled pass joins the batch before it: batch normalisation cannot learn from one row.
    """

    def __init__(self, x: Any, y: Array, rows: Array, size: int, *, seed: int | None = None, limit: int = 0) -> None:
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
    """Batches of one view: its inputs, or with `features` those of a frozen backbone in their place."""

    def __init__(self, train: Batches, val: Batches, *, features: bool = False) -> None:
        super().__init__()
        self.train, self.val, self.features = train, val, features

    def train_dataloader(self) -> Batches:
        return self.train

    def val_dataloader(self) -> Batches:
        return self.val
