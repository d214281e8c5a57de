"""A small transformer encoder from random weights, for texts as ids."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from proj.errors import ConfigError
from proj.preprocess.spec import PAD

Tensor = torch.Tensor
HEAD_WIDTH = 32
NEVER = -1e9  # finite: a row of nothing but PAD then gives numbers too


def mask_of(ids: Tensor) -> Tensor:
    """Float (B, L): 1 where an id is, 0 where PAD is."""
    return (ids != PAD).float()


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """`x` (B, L, D), `mask` (B, L): the mean over ids (B, D)."""
    total = (x * mask.unsqueeze(-1)).sum(1)
    mean: Tensor = total / mask.sum(1, keepdim=True).clamp_min(1.0)
    return mean


def masked_max(x: Tensor, mask: Tensor) -> Tensor:
    """As `masked_mean`, the largest; 0 of a row of nothing."""
    largest = x.masked_fill(mask.unsqueeze(-1) == 0, NEVER).amax(1)
    return largest * (mask.sum(1, keepdim=True) > 0)


def embedding(ids: int, width: int) -> nn.Embedding:
    """A vector an id; that of PAD is zero and stays so."""
    table = nn.Embedding(ids, width, padding_idx=PAD)
    nn.init.normal_(table.weight, std=0.1)
    with torch.no_grad():
        table.weight[PAD] = 0
    return table


class Block(nn.Module):
    """Attention, then a feed-forward layer of four times the width; each normalised before (Xiong et al. 2020)."""

    def __init__(self, width: int, drop_rate: float) -> None:
        super().__init__()
        self.heads = max(1, width // HEAD_WIDTH)
        if width % self.heads:
            raise ConfigError(f"model.width is {width}", next=f"a transformer's must be a multiple of {HEAD_WIDTH}")
        self.norm_attention, self.norm_forward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.forward_in, self.forward_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.drop = nn.Dropout(drop_rate)

    def attend(self, x: Tensor, bias: Tensor) -> Tensor:
        """`x` (B, L, D); `bias` (B, 1, 1, L) is added to what a place looks at."""
        b, length, width = x.shape
        q, k, v = self.qkv(x).view(b, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        z: Tensor = self.out(y.transpose(1, 2).reshape(b, length, width))
        return z

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = x + self.drop(self.attend(self.norm_attention(x), bias))
        hidden = self.drop(F.gelu(self.forward_in(self.norm_forward(x))))
        y: Tensor = x + self.drop(self.forward_out(hidden))
        return y


class Transformer(nn.Module):
    """Ids int (B, L), L <= `length`, to features (B, 2 * width): their mean and their maximum over the text."""

    def __init__(self, ids: int, length: int, width: int, layers: int, drop_rate: float) -> None:
        super().__init__()
        self.width = 2 * width
        self.tokens = embedding(ids, width)
        self.places = nn.Embedding(length, width)
        nn.init.normal_(self.places.weight, std=0.02)
        self.drop = nn.Dropout(drop_rate)
        self.blocks = nn.ModuleList(Block(width, drop_rate) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def front(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        mask = mask_of(x)
        bias = ((1 - mask) * NEVER)[:, None, None, :]
        h = self.drop(self.tokens(x) + self.places(torch.arange(x.shape[1], device=x.device)))
        for block in self.blocks:
            h = block(h, bias)
        h = self.norm(h)
        return torch.cat([masked_mean(h, mask), masked_max(h, mask)], 1)
