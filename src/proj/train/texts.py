"""Encoders of texts: from int32 ids (B, L), filled up with PAD, to features (B, F)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from proj.errors import ConfigError
from proj.train.transformer import Transformer, embedding, mask_of, masked_max

if TYPE_CHECKING:
    from pathlib import Path

    from proj.config import Model
    from proj.preprocess.spec import TextSpec

Tensor = torch.Tensor
SCRATCH = ("transformer", "convolutions", "linear")
LINEAR_WIDTH = 8  # features; so many learn together better than the one that two classes would need
WIDTHS = (2, 3, 5)  # ids that a convolution sees at once


class Linear(nn.Module):
    """The sum of one small vector an n-gram, over the root of their number; the head makes it one linear layer."""

    def __init__(self, buckets: int, width: int = LINEAR_WIDTH) -> None:
        super().__init__()
        self.width = width
        self.table = embedding(buckets + 1, width)

    def front(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        n = mask_of(x).sum(1, keepdim=True).clamp_min(1.0)
        f: Tensor = self.table(x).sum(1) / n.sqrt()
        return f


class Convolutions(nn.Module):
    """Convolutions of several widths over embedded ids, the largest answer of each (Kim 2014, arXiv 1408.5882)."""

    def __init__(self, ids: int, width: int, drop_rate: float) -> None:
        super().__init__()
        self.width = width * len(WIDTHS)
        self.tokens = embedding(ids, width)
        self.convolutions = nn.ModuleList(nn.Conv1d(width, width, k) for k in WIDTHS)
        self.drop = nn.Dropout(drop_rate)

    def front(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        mask = mask_of(x)
        # What PAD is embedded as is zero, as is what stands outside a text: a row's answer needs no neighbour's length.
        e = self.drop(self.tokens(x)).transpose(1, 2)
        found = []
        for convolution, k in zip(self.convolutions, WIDTHS, strict=True):
            h = F.relu(convolution(F.pad(e, ((k - 1) // 2, k // 2))))
            found.append(masked_max(h.transpose(1, 2), mask))
        return torch.cat(found, 1)


def backbone(m: Model) -> str:
    """One of SCRATCH, or a pretrained model's name or folder."""
    return m.backbone or m.text


def build(m: Model, spec: TextSpec, tokenizer: Any, architecture: Path | None = None) -> nn.Module:
    """The encoder that `m.backbone` names, for a spec that `tokens.tokenise` completed.

    `architecture`: a folder with the config of a language model whose weights a checkpoint will bring.
    Raises what `language.encoder` does for a pretrained one, ConfigError where spec and model do not go together.
    """
    name = backbone(m)
    wanted = "hash" if name == "linear" else "tokenizer"
    if spec.encoding != wanted:
        raise ConfigError(f"{name} takes texts as {wanted}", found=f"these are as {spec.encoding}", next="train again")
    if name == "linear":
        return Linear(spec.buckets)
    if name not in SCRATCH:
        from proj.train import language

        return language.bare(architecture, spec.pad) if architecture else language.encoder(m, spec.pad)
    ids = int(tokenizer.get_vocab_size())
    if name == "convolutions":
        return Convolutions(ids, m.width, m.drop_rate)
    return Transformer(ids, spec.max_tokens, m.width, m.layers, m.drop_rate)
