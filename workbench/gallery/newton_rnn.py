"""A nonlinear recurrent network solved in parallel by Newton's method (ParaRNN).

All hidden states are unknowns of one system; every Newton step is a linear recurrence, solved by a
parallel scan in log2(T) products. Recurrent weights are bounded, because without a bound it diverges.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

PAPER = "ParaRNN, arXiv:2510.21450"
LEFT_OUT = "block-diagonal input products, the fused scan, training"


def linear_scan(factor: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
    """x_t = factor_t x_(t-1) + added_t along axis 1 from zero, by doubling."""
    shift = 1
    while shift < added.shape[1]:
        before_a = torch.cat([torch.zeros_like(added[:, :shift]), added[:, :-shift]], 1)
        before_f = torch.cat([torch.ones_like(factor[:, :shift]), factor[:, :-shift]], 1)
        added, factor = added + factor * before_a, factor * before_f
        shift *= 2
    return added


class ParallelGRU(nn.Module):
    """``[B, T, D]`` -> hidden states ``[B, T, H]``; the recurrence is per channel."""

    def __init__(self, dim: int = 64, hidden: int = 64, iterations: int = 3, bound: float = 1.0) -> None:
        super().__init__()
        self.given = nn.Linear(dim, 3 * hidden)
        self.own = nn.Parameter(bound * (2 * torch.rand(3, hidden) - 1))
        self.iterations = iterations

    def cell(self, before: torch.Tensor, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The next state and its derivative with respect to ``before``."""
        a, b, c = self.own
        gz, gr, gc = given.chunk(3, -1)
        z, r = torch.sigmoid(a * before + gz), torch.sigmoid(b * before + gr)
        new = torch.tanh(c * before * r + gc)
        slope = (1 - new * new) * c * (r + before * r * (1 - r) * b)
        return (1 - z) * before + z * new, (1 - z) + (new - before) * z * (1 - z) * a + z * slope

    def sequential(self, x: torch.Tensor) -> torch.Tensor:
        """The plain loop, which the parallel form must equal."""
        given = self.given(x)
        state = torch.zeros_like(given[:, 0, :self.own.shape[1]])
        found = []
        for t in range(given.shape[1]):
            state, _ = self.cell(state, given[:, t])
            found.append(state)
        return torch.stack(found, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        given = self.given(x)
        zero = torch.zeros_like(given[:, :1, :self.own.shape[1]])
        h, _ = self.cell(zero.expand(-1, given.shape[1], -1), given)
        for _ in range(self.iterations):
            value, slope = self.cell(torch.cat([zero, h[:, :-1]], 1), given)
            h = h + linear_scan(slope, value - h)
        return h


def make(batch: int) -> tuple[nn.Module, Any]:
    return ParallelGRU(), torch.randn(batch, 256, 64)
