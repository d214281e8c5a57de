"""Which split a group is in: a function of the seed and the group's name alone, so that growing data move nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from proj.errors import DataError

TRAIN, VAL, TEST = 0, 1, 2
NAMES = ("train", "val", "test")

Split = np.ndarray[Any, np.dtype[np.uint8]]


def place(seed: int, group: str) -> float:
    """A group's place in [0, 1): the first 53 bits of SHA-256 over seed and name."""
    digest = hashlib.sha256(f"{seed}\0{group}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def by_hash(groups: Sequence[str], *, seed: int, val_share: float, test_share: float) -> Split:
    """uint8 (N,): TRAIN, VAL or TEST. Shares are of groups and met on average."""
    places = {g: place(seed, g) for g in set(groups)}
    p = np.array([places[g] for g in groups])
    split = np.where(p < test_share, TEST, np.where(p < test_share + val_share, VAL, TRAIN)).astype(np.uint8)
    return _no_empty(split, groups, {TRAIN, VAL, TEST} if test_share else {TRAIN, VAL})


def by_tail(groups: Sequence[str], *, seed: int, val_share: float, test_share: float) -> Split:
    """The last `test_share` of the rows as they come (whole groups) is TEST; VAL by hash among the rest."""
    n = len(groups)
    tail = set(groups[n - max(1, round(n * test_share)) :])
    rest = by_hash(groups, seed=seed, val_share=val_share / (1 - test_share), test_share=0.0)
    split = np.where([g in tail for g in groups], TEST, rest).astype(np.uint8)
    return _no_empty(split, groups, {TRAIN, VAL, TEST})


def folds(groups: Sequence[str], k: int, *, seed: int, val_share: float) -> list[Split]:
    """`k` splits whose TEST parts cover every group once, of nearly equal size; VAL by hash among the rest.

    Groups are dealt in the order of their places, each to the fold with the fewest rows so far that still leaves two
    groups to the others: to train and to validate on.
    """
    names, counts = np.unique(np.asarray(groups), return_counts=True)
    if len(names) < k:
        raise DataError(f"trainer.folds={k} needs {k} groups", found=f"the data have {len(names)}")
    sizes, dealt, fold_of = np.zeros(k, int), np.zeros(k, int), {}
    for i in sorted(range(len(names)), key=lambda i: place(seed, str(names[i]))):
        full = dealt >= max(1, len(names) - 2)
        fold_of[str(names[i])] = best = int(np.where(full & ~full.all(), sizes.max() + 1, sizes).argmin())
        sizes[best] += counts[i]
        dealt[best] += 1
    own = np.array([fold_of[g] for g in groups])
    found = []
    for i in range(k):
        rest = [int(j) for j in np.flatnonzero(own != i)]
        split = np.full(len(own), TEST, np.uint8)
        split[rest] = by_hash([groups[j] for j in rest], seed=seed + 1, val_share=val_share, test_share=0.0)
        found.append(split)
    return found


def _no_empty(split: Split, groups: Sequence[str], wanted: set[int]) -> Split:
    """Small data: a split that no group fell into takes one from the split that has most. Never silently untested."""
    in_split: dict[int, set[str]] = {s: set() for s in wanted}
    for g, s in zip(groups, split.tolist(), strict=True):
        in_split[s].add(g)
    for missing in sorted(s for s in wanted if not in_split[s]):
        donor = max(in_split, key=lambda s: len(in_split[s]))
        if len(in_split[donor]) < 2:
            raise DataError(
                "too few groups to split",
                found=f"{len(set(groups))} groups",
                next="add data, or lower task.block",
            )
        group = min(in_split[donor])
        in_split[donor].remove(group)
        in_split[missing].add(group)
        split = np.where(np.asarray(groups) == group, np.uint8(missing), split).astype(np.uint8)
    return split
