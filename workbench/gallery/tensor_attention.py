"""Attention over pairs of tokens (Kronecker, higher-order attention) in local windows: cubic work.

A query scores every pair of keys at once, the product of the two; without windows it costs the cube of
the length, so each query looks at the last ``w1`` times the last ``w2`` tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

PAPER = "How to capture higher-order correlations? Generalizing matrix softmax attention to Kronecker " \
        "computation, arXiv:2310.04064"
LEFT_OUT = "the nearly linear approximation, which needs bounded entries"


class PairAttention(nn.Module):
    """``[B, T, D]`` -> ``[B, T, D]``."""

    def __init__(self, dim: int = 64, heads: int = 4, windows: tuple[int, int] = (16, 8)) -> None:
        super().__init__()
        self.heads, self.windows = heads, windows
        self.project, self.out = nn.Linear(dim, 5 * dim), nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, d = x.shape
        q, k1, k2, v1, v2 = self.project(x).view(b, t, 5, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = torch.einsum("bhid,bhjd,bhkd->bhijk", q, k1, k2) / (d // self.heads)
        scores = scores.masked_fill(~self.mask(t, x.device), float("-inf"))
        weights = scores.flatten(-2).softmax(-1).view_as(scores)
        mixed = torch.einsum("bhijk,bhjd,bhkd->bhid", weights, v1, v2)
        return x + self.out(mixed.transpose(1, 2).reshape(b, t, d))

    def mask(self, t: int, device: torch.device) -> torch.Tensor:
        """Which pairs a query may see ``[T, T, T]``."""
        i = torch.arange(t, device=device)
        apart = i[:, None] - i[None]
        one, two = ((apart >= 0) & (apart < w) for w in self.windows)
        return one[:, :, None] & two[:, None]


def make(batch: int) -> tuple[nn.Module, Any]:
    return PairAttention(), torch.randn(batch, 48, 64)
