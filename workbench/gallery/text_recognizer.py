"""Scene-text recogniser with a parallel decoder (CPPD): how many of each letter, in which order.

Counting queries say how often each character occurs, ordering queries whether a position is used; then
all positions are decoded at once from both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from workbench.gallery.vision_transformer import Block

PAPER = "Context perception parallel decoder, arXiv:2307.12270"
LEFT_OUT = "its training losses, real photographs"


class Reader(nn.Module):
    """Queries ``[Q, D]`` that attend to the image's tokens."""

    def __init__(self, queries: int, dim: int, heads: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(0.02 * torch.randn(queries, dim))
        self.attend = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: torch.Tensor, more: torch.Tensor | None = None) -> torch.Tensor:
        asked = self.queries.expand(len(tokens), -1, -1)
        asked = asked if more is None else asked + more
        return self.norm(asked + self.attend(asked, tokens, tokens, need_weights=False)[0])


class TextRecognizer(nn.Module):
    """Text ``[B, 1, 32, 96]`` -> characters ``[B, L, C]``, counts ``[B, C, 4]``, used ``[B, L, 2]``."""

    def __init__(self, characters: int = 37, length: int = 16, dim: int = 96, depth: int = 2,
                 heads: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 32, 3, 2, 1), nn.GELU(), nn.Conv2d(32, dim, 3, 2, 1),
                                  nn.GELU(), nn.AvgPool2d((2, 1)))
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.count, self.order = Reader(characters, dim, heads), Reader(length, dim, heads)
        self.decode = Reader(length, dim, heads)
        self.counts, self.used, self.names = nn.Linear(dim, 4), nn.Linear(dim, 2), nn.Linear(dim, characters)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        tokens = self.blocks(self.stem(image).flatten(2).transpose(1, 2))
        count, order = self.count(tokens), self.order(tokens)
        found = self.decode(torch.cat([tokens, count], 1), order)
        return self.names(found), self.counts(count), self.used(order)


def make(batch: int) -> tuple[nn.Module, Any]:
    return TextRecognizer(), torch.randn(batch, 1, 32, 96)
