"""Image decoder by diagonals (NAR): 2 g - 1 steps for a g x g grid instead of g squared.

A cell sees every cell on its own diagonal and the ones before; a head to the right and a head below
predict the neighbours, and their mean decides where both look.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

PAPER = "Neighboring autoregressive modeling, arXiv:2503.10696"
LEFT_OUT = "the image tokenizer, rotary positions, a cache between steps"


class NeighbourDecoder(nn.Module):
    """Condition ``[B]`` -> token grid ``[B, g, g]``, greedily, one diagonal per step."""

    diagonal: torch.Tensor

    def __init__(self, vocabulary: int = 64, grid: int = 8, dim: int = 96, depth: int = 3, heads: int = 4
                 ) -> None:
        super().__init__()
        self.grid, self.start = grid, nn.Embedding(10, dim)
        self.embed = nn.Embedding(vocabulary, dim)
        self.places = nn.Parameter(0.02 * torch.randn(grid * grid + 1, dim))
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(
            dim, heads, 4 * dim, batch_first=True, norm_first=True, dropout=0.0) for _ in range(depth))
        self.right, self.below = nn.Linear(dim, vocabulary), nn.Linear(dim, vocabulary)
        at = torch.arange(grid)
        far = (at[:, None] + at[None]).flatten() + 1
        self.register_buffer("diagonal", torch.cat([torch.zeros(1, dtype=torch.long), far]))

    def states(self, tokens: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        """``tokens [B, g * g]`` -> ``[B, g * g + 1, D]``; a later diagonal is never seen."""
        x = torch.cat([self.start(start)[:, None], self.embed(tokens)], 1) + self.places
        hidden = self.diagonal[None] > self.diagonal[:, None]
        for block in self.blocks:
            x = block(x, src_mask=hidden)
        return x

    def logits(self, states: torch.Tensor, i: int, j: int) -> torch.Tensor:
        """For cell (i, j), from its left and its upper neighbour."""
        at = lambda a, b: states[:, 1 + a * self.grid + b]  # noqa: E731
        if i == j == 0:
            return (self.right(states[:, 0]) + self.below(states[:, 0])) / 2
        if i == 0:
            return self.right(at(0, j - 1))
        if j == 0:
            return self.below(at(i - 1, 0))
        return (self.right(at(i, j - 1)) + self.below(at(i - 1, j))) / 2

    def forward(self, start: torch.Tensor) -> torch.Tensor:
        g = self.grid
        tokens = torch.zeros(len(start), g * g, dtype=torch.long, device=start.device)
        for step in range(2 * g - 1):
            states = self.states(tokens, start)
            for i in range(max(0, step - g + 1), min(g, step + 1)):
                tokens[:, i * g + step - i] = self.logits(states, i, step - i).argmax(-1)
        return tokens.view(-1, g, g)


def make(batch: int) -> tuple[nn.Module, Any]:
    return NeighbourDecoder(), torch.randint(0, 10, (batch,))
