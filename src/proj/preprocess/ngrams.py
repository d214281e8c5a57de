"""Hashed n-grams of words and letters: the same numbers on every machine and in every version of Python."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

Words = np.ndarray[Any, np.dtype[np.uint64]]
Ids = np.ndarray[Any, np.dtype[np.int32]]

_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying loses nothing (Knuth's golden ratio)
_INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 2**64))
_WORD = re.compile(r"\w+|[^\w\s]")
_SPACE = np.uint64(32)


def hashed(text: str, words: int, chars: tuple[int, int], buckets: int, most: int) -> Ids:
    """Numbers 1..buckets of the n-grams of `text`, lower-cased, each once, sorted; the first `most` of the text's.

    `words`: word n-grams of 1 to so many words, a mark being a word. `chars`: the smallest and largest number of
    letters of n-grams within a word, its two boundaries counted as letters; (0, 0) for none.
    """
    tokens = _WORD.findall(text.lower())
    if not tokens:
        return np.zeros(0, np.int32)
    flat = np.frombuffer(f" {' '.join(tokens)} ".encode("utf-32-le", "replace"), np.uint32).astype(np.uint64)
    gaps = np.flatnonzero(flat == _SPACE)
    letters = _mixed(flat + np.uint64(1))
    found = _of_words(letters, gaps, words)
    if chars[1]:
        found += _of_letters(letters, gaps, chars)
    every = np.concatenate([h for h, _ in found])
    kept = _each_once(((every >> np.uint64(11)) % np.uint64(buckets)).astype(np.int32) + 1)
    if len(kept) > most:  # a long text: its beginning
        order = np.argsort(np.concatenate([at for _, at in found]), kind="stable")
        first = ((every[order] >> np.uint64(11)) % np.uint64(buckets)).astype(np.int32) + 1
        once = np.sort(np.unique(first, return_index=True)[1])[:most]
        kept = np.sort(first[once])
    return kept


def _each_once(numbers: Ids) -> Ids:
    numbers.sort()
    once: Ids = numbers[np.concatenate([[True], numbers[1:] != numbers[:-1]])]
    return once


def _mixed(h: Words) -> Words:
    """Every bit of the outcome depends on every bit of `h` (MurmurHash3's last step, by A. Appleby)."""
    h = (h ^ (h >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    h = (h ^ (h >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return h ^ (h >> np.uint64(33))


def _of_words(letters: Words, gaps: Any, most: int) -> list[tuple[Words, Any]]:
    """Hashes of n-grams of 1 to `most` words, and where each begins. `gaps`: places of the spaces around the words."""
    # A word's hash is the sum of letter times factor to the power of its place, moved back to place 0: by sums and
    # powers of the whole text, so that no loop runs over words.
    n = len(letters)
    powers, back = np.full(n, _FACTOR), np.full(n, _INVERSE)
    powers[0] = back[0] = 1
    powers, back = np.cumprod(powers), np.cumprod(back)
    sums = np.cumsum(letters * powers)
    one = _mixed((sums[gaps[1:] - 1] - sums[gaps[:-1]]) * back[gaps[:-1] + 1])
    start = gaps[:-1]
    found, gram = [(_mixed(one + np.uint64(1)), start)], one
    for k in range(2, most + 1):
        if len(one) < k:
            break
        gram = gram[:-1] * _FACTOR + one[k - 1 :]
        found.append((_mixed(gram + np.uint64(k)), start[: len(gram)]))
    return found


def _of_letters(letters: Words, gaps: Any, sizes: tuple[int, int]) -> list[tuple[Words, Any]]:
    """Hashes of n-grams of `sizes[0]` to `sizes[1]` letters that hold a space at their ends at most."""
    n = len(letters)
    # The place of the next space after each place: an n-gram from i reaches to i + k - 1, at most to that space.
    index = np.searchsorted(gaps, np.arange(n), side="right")
    until = np.append(gaps, n)[index]
    found = []
    gram = letters.copy()
    for k in range(2, sizes[1] + 1):
        if n < k:
            break
        gram = gram[:-1] * _FACTOR + letters[k - 1 :]
        if k >= sizes[0]:
            at = np.flatnonzero(until[: len(gram)] >= np.arange(len(gram)) + k - 1)
            found.append((_mixed(gram[at] + np.uint64(100 + k)), at))
    return found
