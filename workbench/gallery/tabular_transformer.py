"""Tabular in-context transformer (TabPFN): training rows as context, test rows as questions.

Twelve-layer in the paper, four here. Training rows attend to each other, test rows to the training rows
alone; there are no positions, so the order of the rows does not matter.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

PAPER = "TabPFN, arXiv:2207.01848"
LEFT_OUT = "training on synthetic causal tables, ensembling over feature orders"


class Layer(nn.Module):
    """Keys and values come from the training rows only."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.out = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, x: torch.Tensor, known: int) -> torch.Tensor:
        b, n, d = x.shape
        q = self.q(x).view(b, n, self.heads, -1).transpose(1, 2)
        k, v = self.kv(x[:, :known]).view(b, known, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d)
        x = self.norm1(x + self.out(mixed))
        return self.norm2(x + self.mlp(x))


class TabularTransformer(nn.Module):
    """Rows ``[B, N, F]`` and the first K labels ``[B, K]`` -> class logits of the rest ``[B, N-K, C]``."""

    def __init__(self, features: int = 20, classes: int = 4, dim: int = 128, depth: int = 4,
                 heads: int = 4) -> None:
        super().__init__()
        self.rows, self.labels = nn.Linear(features, dim), nn.Embedding(classes, dim)
        self.layers = nn.ModuleList(Layer(dim, heads) for _ in range(depth))
        self.head = nn.Linear(dim, classes)

    def forward(self, rows: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        known = labels.shape[1]
        x = self.rows(rows)
        x = torch.cat([x[:, :known] + self.labels(labels), x[:, known:]], 1)
        for layer in self.layers:
            x = layer(x, known)
        return self.head(x[:, known:])


def make(batch: int) -> tuple[nn.Module, Any]:
    return TabularTransformer(), (torch.randn(batch, 96, 20), torch.randint(0, 4, (batch, 64)))
