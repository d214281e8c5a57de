"""From the features of several views of one thing to features of the thing."""

from __future__ import annotations

import torch
from torch import nn

Tensor = torch.Tensor


class AttentionPool(nn.Module):
    """Features (B, V, F), V >= 1, to (B, F): a mean in which each view's weight is learned from what it shows.

    After Ilse, Tomczak and Welling 2018 (arXiv 1802.04712). It starts as the plain mean. The order of the views
    does not matter, and views of which each is there equally often give what one of each gives.
    """

    def __init__(self, features: int, width: int = 32) -> None:
        """`width`: of the layer that looks at a view before it is given its weight."""
        super().__init__()
        self.look = nn.Linear(features, width)
        self.score = nn.Linear(width, 1, bias=False)  # a bias would be the same for all views
        nn.init.zeros_(self.score.weight)

    def weights(self, x: Tensor) -> Tensor:
        """(B, V, F) to (B, V), over the views they sum to 1."""
        scores: Tensor = self.score(torch.tanh(self.look(x))).squeeze(-1)
        return scores.softmax(1)

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weights(x).unsqueeze(-1)).sum(1)
