"""Mixture-of-experts layer with a router of sigmoids and ReLU (BlockFFN), experts on demand.

The router's ReLU makes the number of active experts vary per token; only experts that some token chose
are computed, so the cost follows the union over the tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

PAPER = "BlockFFN, arXiv:2507.08771"
LEFT_OUT = "the losses that make neighbouring tokens choose the same experts, the fused kernel"


class ExpertLayer(nn.Module):
    """``[B, T, D]`` -> ``[B, T, D]``."""

    def __init__(self, dim: int = 128, experts: int = 16, width: int = 64) -> None:
        super().__init__()
        self.norm, self.router = nn.RMSNorm(dim), nn.Linear(dim, experts, bias=False)
        self.threshold = nn.Parameter(torch.full((experts,), 0.5))
        self.scale = nn.RMSNorm(experts)
        self.up = nn.ModuleList(nn.Linear(dim, width, bias=False) for _ in range(experts))
        self.down = nn.ModuleList(nn.Linear(width, dim, bias=False) for _ in range(experts))

    def gates(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, experts]``, zero for experts that a token does not use."""
        return self.scale(F.relu(self.router(x) - self.threshold))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = self.norm(x).flatten(0, -2)
        gates = self.gates(flat)
        out = torch.zeros_like(flat)
        for index, (up, down) in enumerate(zip(self.up, self.down, strict=True)):
            rows = gates[:, index].nonzero()[:, 0]
            if len(rows):
                out.index_add_(0, rows, gates[rows, index, None] * down(F.silu(up(flat[rows]))))
        return x + out.view_as(x)


def make(batch: int) -> tuple[nn.Module, Any]:
    return ExpertLayer(), torch.randn(batch, 64, 128)
