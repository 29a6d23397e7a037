"""Selective state-space block (Mamba): gate, short convolution, a scan whose steps depend on the input.

The scan is chunked: within a chunk it is products of decays in logarithms, between chunks the state is
carried, so that chunk and recurrence give the same numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

PAPER = "Mamba, arXiv:2312.00752"
LEFT_OUT = "the fused scan kernel; here the scan is tensor operators in chunks"


def scan(decay: torch.Tensor, added: torch.Tensor, chunk: int = 16) -> torch.Tensor:
    """h_t = exp(decay_t) h_(t-1) + added_t along axis 1; ``[B, T, ...]`` with decay <= 0."""
    state = torch.zeros_like(added[:, 0])
    found = []
    for base in range(0, added.shape[1], chunk):
        d, a = decay[:, base:base + chunk], added[:, base:base + chunk]
        total = d.cumsum(1)
        n = d.shape[1]
        # From s to t the decay is exp(total_t - total_s), never above one for s <= t.
        apart = (total[:, :, None] - total[:, None]).clamp(max=0)
        later = torch.ones(n, n, device=d.device, dtype=torch.bool).tril()
        weights = apart.exp() * later.view(1, n, n, *[1] * (d.dim() - 2))
        h = (weights * a[:, None]).sum(2) + total.exp() * state[:, None]
        state = h[:, -1]
        found.append(h)
    return torch.cat(found, 1)


class SelectiveBlock(nn.Module):
    """``[B, T, D]`` -> ``[B, T, D]``."""

    def __init__(self, dim: int = 64, inner: int = 128, states: int = 8, width: int = 4) -> None:
        super().__init__()
        self.inner, self.states, self.width = inner, states, width
        self.norm, self.enter = nn.LayerNorm(dim), nn.Linear(dim, 2 * inner)
        self.conv = nn.Conv1d(inner, inner, width, groups=inner)
        self.choose = nn.Linear(inner, 1 + 2 * states)
        self.speed = nn.Linear(1, inner)
        self.rates = nn.Parameter(torch.arange(1, states + 1).float().log().repeat(inner, 1))
        self.skip, self.out = nn.Parameter(torch.ones(inner)), nn.Linear(inner, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u, gate = self.enter(self.norm(x)).chunk(2, -1)
        u = F.silu(self.conv(F.pad(u.transpose(1, 2), (self.width - 1, 0))).transpose(1, 2))
        step, b, c = self.choose(u).split([1, self.states, self.states], -1)
        step = F.softplus(self.speed(step))
        decay = -step[..., None] * self.rates.exp()
        h = scan(decay, (step * u)[..., None] * b[:, :, None])
        y = (h * c[:, :, None]).sum(-1) + self.skip * u
        return x + self.out(y * F.silu(gate))


def make(batch: int) -> tuple[nn.Module, Any]:
    return nn.Sequential(SelectiveBlock(), SelectiveBlock()), torch.randn(batch, 128, 64)
