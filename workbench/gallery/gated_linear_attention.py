"""Gated linear attention in chunks: a matrix state that decays by a learned gate per channel.

Between chunks the state is carried; within one the decays are differences of cumulative logarithms, so
that no exponent is positive (the form without chunks overflows).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

PAPER = "Gated linear attention transformers, arXiv:2312.06635"
LEFT_OUT = "sub-blocks of 16 for the matrix unit, the fused kernel"


def chunked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, log_gate: torch.Tensor, chunk: int = 16
            ) -> torch.Tensor:
    """``q k log_gate [B, H, T, K]``, ``v [B, H, T, V]`` -> ``[B, H, T, V]``; gates <= 0."""
    state = torch.zeros(*q.shape[:2], q.shape[-1], v.shape[-1], device=q.device, dtype=q.dtype)
    found = []
    for base in range(0, q.shape[2], chunk):
        part = slice(base, base + chunk)
        qc, kc, vc, total = q[:, :, part], k[:, :, part], v[:, :, part], log_gate[:, :, part].cumsum(2)
        apart = (total[:, :, :, None] - total[:, :, None]).clamp(max=0).exp()
        scores = torch.einsum("bhik,bhjk,bhijk->bhij", qc, kc, apart).tril()
        found.append((qc * total.exp()) @ state + scores @ vc)
        last = total[:, :, -1:]
        state = last.exp().transpose(2, 3) * state + (kc * (last - total).exp()).transpose(2, 3) @ vc
    return torch.cat(found, 2)


class GatedLayer(nn.Module):
    """``[B, T, D]`` -> ``[B, T, D]``; keys half as wide as values."""

    def __init__(self, dim: int = 128, heads: int = 4, temperature: float = 16.0) -> None:
        super().__init__()
        self.heads, self.temperature = heads, temperature
        self.norm = nn.LayerNorm(dim)
        self.q, self.k, self.v = nn.Linear(dim, dim // 2), nn.Linear(dim, dim // 2), nn.Linear(dim, dim)
        self.gate = nn.Sequential(nn.Linear(dim, 16), nn.Linear(16, dim // 2))
        self.swish, self.out, self.each = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.RMSNorm(dim // heads)

    def split(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(x)
        gate = self.split(F.logsigmoid(self.gate(h)) / self.temperature)
        q = self.split(self.q(h)) * (h.shape[-1] // 2 // self.heads) ** -0.5
        mixed = self.each(chunked(q, self.split(self.k(h)), self.split(self.v(h)), gate))
        return x + self.out(mixed.transpose(1, 2).flatten(2) * F.silu(self.swish(h)))


def make(batch: int) -> tuple[nn.Module, Any]:
    return nn.Sequential(GatedLayer(), GatedLayer()), torch.randn(batch, 128, 128)
