"""Texts to ids for training: a tokenizer trained on the task's own texts, or a pretrained model's, or hashing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from loguru import logger

from proj.data import cache as kept
from proj.preprocess import text
from proj.preprocess.spec import PAD, TextSpec
from proj.train import texts as encoders

if TYPE_CHECKING:
    from proj.config import Model

Array = np.ndarray[Any, np.dtype[Any]]
WORD_NGRAMS = 3
CHAR_NGRAMS = (2, 6)
CHUNK = 512


class Texts(Protocol):
    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> str: ...


@dataclass(frozen=True)
class Ragged:
    """Ids of all rows, one after another: int32 `flat`, and int64 `offsets` (N + 1,)."""

    flat: Array
    offsets: Array

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, rows: Array | Sequence[int]) -> Array:
        """int32 (len(rows), longest of them), filled up with PAD."""
        at = np.asarray(rows)
        starts, sizes = self.offsets[at], self.offsets[at + 1] - self.offsets[at]
        out = np.full((len(at), int(sizes.max(initial=1))), PAD, np.int32)
        for row, start, size in zip(out, starts, sizes, strict=True):
            row[:size] = self.flat[start : start + size]
        return out


def tokenise(
    m: Model, spec: TextSpec, texts: Texts, train_rows: Array, cache: Path | None, tokenizer: Any = None
) -> tuple[Ragged, TextSpec, Any]:
    """Ids of all `texts`; the spec completed by how they were made; the tokenizers.Tokenizer, or None for hashing.

    A tokenizer is trained on `train_rows` alone, or is the pretrained model's; one that is given is taken, and so
    is a spec that says its encoding already. `cache`: a folder where ids are kept, for the next run with equal texts.
    Raises Unreachable, ConfigError (a pretrained model that cannot be had or used).
    """
    if spec.encoding == "none":
        spec, tokenizer = _encoding(m, spec, texts, train_rows, tokenizer)
    if cache is None:
        return _encoded(spec, texts, tokenizer), spec, tokenizer
    folder = cache / _key(spec, texts, tokenizer)
    if not folder.is_dir():
        _keep(_encoded(spec, texts, tokenizer), folder)
        settings = {"model.backbone": encoders.backbone(m), "model.max_tokens": spec.max_tokens}
        kept.tell(folder, kept.About(what="token ids", settings=settings, rows=len(texts)))
    kept.used(folder)
    return _kept(folder), spec, tokenizer


def _encoding(m: Model, spec: TextSpec, texts: Texts, train_rows: Array, tokenizer: Any) -> tuple[TextSpec, Any]:
    name = encoders.backbone(m)
    if name == "linear":
        return replace(
            spec, encoding="hash", max_tokens=m.max_tokens, buckets=m.buckets,
            word_ngrams=WORD_NGRAMS, char_ngrams=CHAR_NGRAMS,
        ), None  # fmt: skip
    pad, most = PAD, m.max_tokens
    if name not in encoders.SCRATCH:
        from proj.train import language

        theirs, pad, most = language.tokenizer(m)
        tokenizer = tokenizer or theirs
    elif tokenizer is None:
        tokenizer = train([texts[int(i)] for i in train_rows], m.vocabulary, most)
    return replace(spec, encoding="tokenizer", max_tokens=most, pad=pad), tokenizer


def train(corpus: Sequence[str], vocabulary: int, max_tokens: int) -> Any:
    """A byte-level BPE tokenizer (Sennrich et al. 2016), lower-cased: the same corpus gives the same one."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["[PAD]"],  # the first, so that its id is PAD
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(corpus, trainer)
    made.enable_truncation(max_tokens)
    logger.info("trained a tokenizer of {:,} tokens on {:,} texts", made.get_vocab_size(), len(corpus))
    return made


def _encoded(spec: TextSpec, texts: Texts, tokenizer: Any) -> Ragged:
    """By the one function that the server calls too; it works outside Python's lock, so that threads help."""
    offsets, parts = np.zeros(len(texts) + 1, np.int64), []
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        rows = iter(range(len(texts)))
        while part := list(islice(rows, CHUNK)):
            found = list(pool.map(lambda i: text.ids(texts[i], spec, tokenizer), part))
            offsets[part[0] + 1 : part[-1] + 2] = [len(x) for x in found]
            parts.append(np.concatenate(found))
    flat = np.concatenate(parts) if parts else np.zeros(0, np.int32)
    return Ragged(flat, np.cumsum(offsets))


# --- ids that are kept


def _key(spec: TextSpec, texts: Texts, tokenizer: Any) -> str:
    digest = hashlib.sha256(json.dumps(spec.to_dict(), sort_keys=True).encode())
    digest.update(tokenizer.to_str().encode() if tokenizer is not None else b"")
    for t in _each(texts):
        digest.update(t.encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
    return f"ids-{digest.hexdigest()[:16]}"


def _each(texts: Texts) -> Iterator[str]:
    return (texts[i] for i in range(len(texts)))


def _keep(ids: Ragged, folder: Path) -> None:
    """Write `folder` whole or not at all; another process may be faster."""
    new = folder.with_name(f".{folder.name}.{os.getpid()}")
    new.mkdir(parents=True, exist_ok=True)
    try:
        np.save(new / "flat.npy", ids.flat)
        np.save(new / "offset.npy", ids.offsets)
        try:
            new.replace(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _kept(folder: Path) -> Ragged:
    flat = np.load(folder / "flat.npy", mmap_mode="r", allow_pickle=False)
    return Ragged(flat, np.load(folder / "offset.npy", allow_pickle=False))
