"""Fifty small networks, one per time step (multi-layer deep xVA): launch-bound unless they are fused.

The price of a claim walks backwards or forwards through the steps, each step's hedge from a network of
its own. ``fused`` evaluates all networks as one batched product; the answers are the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

PAPER = "Multi-layer deep xVA, arXiv:2502.14766"
LEFT_OUT = "training, initial margin, defaults; the market is one asset's"


class Hedges(nn.Module):
    """Paths of an asset ``[B, S + 1]`` -> the hedged portfolio's value at the end ``[B]``."""

    def __init__(self, steps: int = 50, width: int = 32, fused: bool = False) -> None:
        super().__init__()
        self.fused, self.price = fused, nn.Parameter(torch.tensor(10.0))
        self.networks = nn.ModuleList(
            nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(),
                          nn.Linear(width, 1)) for _ in range(steps))

    def deltas(self, paths: torch.Tensor) -> torch.Tensor:
        """The hedge at every step ``[S, B, 1]``."""
        points = (paths[:, :-1].t()[..., None] - 100) / 20
        if not self.fused:
            return torch.stack([network(x) for network, x in zip(self.networks, points, strict=True)])
        for layer in (0, 2, 4):
            weight = torch.stack([n[layer].weight for n in self.networks])  # type: ignore[index]
            bias = torch.stack([n[layer].bias for n in self.networks])  # type: ignore[index]
            points = torch.baddbmm(bias[:, None], points, weight.transpose(1, 2))
            points = points.tanh() if layer < 4 else points
        return points

    def forward(self, paths: torch.Tensor) -> torch.Tensor:
        gains = (self.deltas(paths)[..., 0] * (paths[:, 1:] - paths[:, :-1]).t()).sum(0)
        return self.price + gains


def make(batch: int) -> tuple[nn.Module, Any]:
    moves = 1 + 0.02 * torch.randn(batch, 50)
    return Hedges(), torch.cat([torch.full((batch, 1), 100.0), 100 * moves.cumprod(1)], 1)
