"""Medusa heads: one residual block per future token on the last features, independent of each other.

Cai et al. 2024, arXiv:2401.10774, section 2.1.1. There each head has an output matrix of its own; here all
share the target's, which for a small target would be most of the head's bytes.
"""

from __future__ import annotations

import torch
from torch import nn

from workbench.heads.blocks import Residual
from workbench.heads.distil import Batch, Guesses, Head
from workbench.heads.spec import HeadSpec
from workbench.heads.target import Target


class Medusa(Head):
    """``options``: ``blocks`` per head."""

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__(spec)
        count = int(spec.options.get("blocks", 1))
        self.heads = nn.ModuleList(nn.Sequential(*(Residual(spec.hidden) for _ in range(count)))
                                   for _ in range(spec.steps))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[..., hidden] -> [steps, ..., hidden]: features of the tokens ahead."""
        return torch.stack([head(features) for head in self.heads])

    def guesses(self, batch: Batch, target: Target) -> Guesses:
        length = batch.tokens.shape[1]
        ahead = self(batch.features)
        students = [target.logits(ahead[i][:, :length - 1 - i]) for i in range(self.spec.steps)]
        return students, [batch.teacher[:, 1 + i:] for i in range(self.spec.steps)]
