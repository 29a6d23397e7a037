"""Interatomic potential (EScAIP): attention over each atom's neighbours; forces by differentiation.

The forces are the negative gradient of the energy with respect to the positions, so a forward contains
a backward pass: a profile of another shape. Only distances enter, so rotations change nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

PAPER = "EScAIP, arXiv:2410.24169"
LEFT_OUT = "directions between neighbours, periodic cells, training"
ONLY_FLOAT32 = "distances and their gradients need its precision"


class NeighbourAttention(nn.Module):
    """Self-attention over ``[B * atoms, neighbours, D]``, then a mean per atom."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, dim))
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, edges: torch.Tensor) -> torch.Tensor:
        n, k, d = edges.shape
        q, key, v = self.qkv(self.norm1(edges)).view(n, k, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        # Written out: the fused kernels have no second derivative that training on forces needs.
        weights = (q @ key.transpose(-1, -2) / (d // self.heads) ** 0.5).softmax(-1)
        edges = edges + self.out((weights @ v).transpose(1, 2).reshape(n, k, d))
        return edges + self.mlp(self.norm2(edges))


class Potential(nn.Module):
    """Positions ``[B, A, 3]`` and kinds ``[B, A]`` -> energies ``[B]`` and forces ``[B, A, 3]``."""

    centres: torch.Tensor

    def __init__(self, kinds: int = 10, dim: int = 64, depth: int = 2, heads: int = 4, neighbours: int = 8,
                 cutoff: float = 6.0) -> None:
        super().__init__()
        self.kinds, self.k, self.cutoff = nn.Embedding(kinds, dim), neighbours, cutoff
        self.register_buffer("centres", torch.linspace(0, cutoff, 16))
        self.distance = nn.Linear(16, dim)
        self.layers = nn.ModuleList(NeighbourAttention(dim, heads) for _ in range(depth))
        self.energy = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, 1))

    def energies(self, positions: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
        b, a, _ = positions.shape
        apart = positions[:, :, None] - positions[:, None]
        # The diagonal is kept away from zero, where the root has no slope.
        far = torch.eye(a, device=positions.device) * 1e6
        distance, at = ((apart**2).sum(-1) + far).sqrt().topk(min(self.k, a - 1), largest=False)
        basis = torch.exp(-((distance[..., None] - self.centres) ** 2))
        fade = (0.5 * (1 + torch.cos(torch.pi * distance.clamp(max=self.cutoff) / self.cutoff)))[..., None]
        own = self.kinds(kinds)
        theirs = own[torch.arange(b)[:, None, None], at]
        edges = (self.distance(basis) + own[:, :, None] + theirs) * fade
        edges = edges.flatten(0, 1)
        for layer in self.layers:
            edges = layer(edges)
        return self.energy((edges.view(b, a, -1, edges.shape[-1]) * fade).mean(2)).sum((1, 2))

    def forward(self, positions: torch.Tensor, kinds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.enable_grad():
            moved = positions.detach().requires_grad_(True)
            energy = self.energies(moved, kinds)
            (slope,) = torch.autograd.grad(energy.sum(), moved)
        return energy.detach(), -slope


def make(batch: int) -> tuple[nn.Module, Any]:
    lattice = torch.stack(torch.meshgrid(*[torch.arange(3.0)] * 3, indexing="ij"), -1).reshape(-1, 3) * 1.6
    positions = lattice[:24] + 0.1 * torch.randn(batch, 24, 3)
    return Potential(), (positions, torch.randint(0, 10, (batch, 24)))
