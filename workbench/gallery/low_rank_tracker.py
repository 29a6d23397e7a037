"""Visual tracker (LoRAT): template and search tokens in one transformer, low-rank updates on top.

The updates add two thin products per linear layer until ``merge`` folds them into the weights; merged
and unmerged give the same boxes, merged at the base's cost.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from workbench.gallery.vision_transformer import Block

PAPER = "LoRAT, arXiv:2403.05231"
LEFT_OUT = "the pretrained backbone, the window penalty, template updates"


class LowRank(nn.Module):
    """A linear layer and its rank-r update."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        self.a = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.b = nn.Parameter(0.02 * torch.randn(base.out_features, rank))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + x @ self.a.t() @ self.b.t()

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        self.base.weight += self.b @ self.a
        return self.base


class Tracker(nn.Module):
    """Template ``[B, 3, 32, 32]``, search ``[B, 3, 64, 64]`` -> scores and boxes ``[B, 5, 16, 16]``."""

    def __init__(self, dim: int = 96, depth: int = 4, heads: int = 4, rank: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, dim, 4, 4)
        self.places = nn.Parameter(0.02 * torch.randn(1, dim, 16, 16))
        self.kinds = nn.Parameter(0.02 * torch.randn(2, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 5))
        if rank:
            self.swap(lambda m: LowRank(m, rank), nn.Linear)

    def swap(self, change: Any, kind: type) -> None:
        """Replace every module of ``kind`` in the blocks by ``change(module)``."""
        for parent in [m for m in self.blocks.modules() if not isinstance(m, LowRank)]:
            for name, child in list(parent.named_children()):
                if isinstance(child, kind):
                    setattr(parent, name, change(child))

    def merge(self) -> Tracker:
        """Fold the updates into the weights."""
        self.swap(lambda m: m.merged(), LowRank)
        return self

    def tokens(self, image: torch.Tensor, kind: int) -> torch.Tensor:
        x = self.patches(image)
        n = x.shape[-1]
        return (x + self.places[..., :n, :n]).flatten(2).transpose(1, 2) + self.kinds[kind]

    def forward(self, template: torch.Tensor, search: torch.Tensor) -> torch.Tensor:
        both = torch.cat([self.tokens(template, 0), self.tokens(search, 1)], 1)
        found = self.head(self.blocks(both)[:, 64:])
        return found.transpose(1, 2).reshape(len(search), 5, 16, 16)


def make(batch: int) -> tuple[nn.Module, Any]:
    return Tracker(), (torch.randn(batch, 3, 32, 32), torch.randn(batch, 3, 64, 64))
