"""Axial attention over an image: rows, then columns, so H W (H + W) instead of (H W) squared.

Row attention sees the pixels to the left; column attention, shifted down by one, sees the rows above:
no pixel sees itself's future in raster order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

PAPER = "Axial attention in multidimensional transformers, arXiv:1912.12180"
LEFT_OUT = "channel by channel colour, the encoder of other scales"


class AxisAttention(nn.Module):
    """Causal attention along axis 1 or 2 of ``[B, H, W, D]``."""

    def __init__(self, dim: int, heads: int, axis: int) -> None:
        super().__init__()
        self.heads, self.axis = heads, axis
        self.norm, self.qkv, self.out = nn.LayerNorm(dim), nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        moved = self.norm(x) if self.axis == 2 else self.norm(x).transpose(1, 2)
        a, b, n, d = moved.shape
        q, k, v = self.qkv(moved).view(a * b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(a, b, n, d)
        y = self.out(y)
        return x + (y if self.axis == 2 else y.transpose(1, 2))


class AxialImageModel(nn.Module):
    """Grey levels ``[B, H, W]`` -> logits of every pixel given those before it ``[B, H, W, levels]``."""

    def __init__(self, levels: int = 16, dim: int = 64, heads: int = 4, depth: int = 2, size: int = 16
                 ) -> None:
        super().__init__()
        self.embed = nn.Embedding(levels, dim)
        self.places = nn.Parameter(0.02 * torch.randn(1, size, size, dim))
        self.above = nn.Sequential(*(m for _ in range(depth) for m in (
            _Whole(dim, heads), AxisAttention(dim, heads, 1))))
        self.along = nn.Sequential(*(AxisAttention(dim, heads, 2) for _ in range(depth)))
        self.head = nn.Linear(dim, levels)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.embed(image) + self.places
        rows = F.pad(self.above(x), (0, 0, 0, 0, 1, 0))[:, :-1]
        here = F.pad(x, (0, 0, 1, 0))[:, :, :-1]
        return self.head(self.along(rows + here + self.places))


class _Whole(AxisAttention):
    """Along whole rows, future included: those rows are shifted down afterwards."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__(dim, heads, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b, n, d = x.shape
        q, k, v = self.qkv(self.norm(x)).view(a * b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(a, b, n, d))


def make(batch: int) -> tuple[nn.Module, Any]:
    return AxialImageModel(), torch.randint(0, 16, (batch, 16, 16))
