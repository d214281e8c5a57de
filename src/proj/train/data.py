"""Batches from a prepared data set: slices of the memory map, in an order that (seed, epoch) decides."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
import torch

if TYPE_CHECKING:
    from proj.data.store import Prepared
    from proj.preprocess.spec import Modality, Spec

Array = np.ndarray[Any, np.dtype[Any]]
Batch = tuple[torch.Tensor, torch.Tensor]
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

    `x`: whatever gives an array for an array of rows. Whoever iterates sets `epoch` first, and `skip` where the first
    batches of that one pass are done already (LitModel does); so the order is a function of (seed, epoch, step). A
    single row left at the end of a shuffled pass joins the batch before it: batch normalisation cannot learn from one.

    `workers`: threads that read batches ahead, in order; 0: none. `pin`: into memory that a GPU copies from by itself.
    """

    def __init__(
        self,
        x: Any,
        y: Array,
        rows: Array,
        size: int,
        *,
        seed: int | None = None,
        limit: int = 0,
        workers: int = 0,
        pin: bool = False,
    ) -> None:
        self.x, self.y, self.rows, self.size, self.seed = x, y, rows, size, seed
        self.limit, self.workers, self.pin = limit, workers, pin
        self.epoch = self.skip = 0

    def __len__(self) -> int:
        return min(self._whole(), self.limit) if self.limit else self._whole()

    def _whole(self) -> int:
        n = len(self.rows)
        lone = self.seed is not None and n > self.size and n % self.size == 1
        return -(-n // self.size) - lone

    def order(self) -> list[Array]:
        """The rows of each batch of this epoch."""
        rows = self.rows
        if self.seed is not None:
            rows = np.random.default_rng((self.seed, self.epoch)).permutation(rows)
        last = self._whole() - 1
        return [rows[i * self.size : None if i == last else (i + 1) * self.size] for i in range(len(self))]

    def __iter__(self) -> Iterator[Batch]:
        parts, self.skip = self.order()[self.skip :], 0  # when the first is asked for: the epoch is known by then
        yield from self._ahead(parts) if self.workers else map(self.read, parts)

    def read(self, rows: Array) -> Batch:
        x, y = torch.from_numpy(np.ascontiguousarray(self.x[rows])), torch.from_numpy(self.y[rows])
        return (x.pin_memory(), y.pin_memory()) if self.pin else (x, y)

    def _ahead(self, parts: list[Array]) -> Iterator[Batch]:
        with ThreadPoolExecutor(self.workers, thread_name_prefix="input") as pool:
            coming = deque(pool.submit(self.read, p) for p in parts[: 2 * self.workers])
            for p in [*parts[2 * self.workers :], *[None] * len(coming)]:
                batch = coming.popleft().result()
                if p is not None:
                    coming.append(pool.submit(self.read, p))
                yield batch


class DataModule(pl.LightningDataModule):
    """Batches of one view: its inputs, or with `features` those of a frozen backbone in their place."""

    def __init__(self, train: Batches, val: Batches, *, features: bool = False) -> None:
        super().__init__()
        self.train, self.val, self.features = train, val, features

    def train_dataloader(self) -> Batches:
        return self.train

    def val_dataloader(self) -> Batches:
        return self.val

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Nothing to do on the CPU, which Lightning finds out anew in every step."""
        return batch if device.type == "cpu" else super().transfer_batch_to_device(batch, device, dataloader_idx)
