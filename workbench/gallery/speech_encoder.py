"""Speech encoder (Whisper, compressed by sparse finetuning): two convolutions, then a transformer."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from workbench.gallery.vision_transformer import Block

PAPER = "Sparse finetuning (arXiv:2310.06927) of Whisper (arXiv:2212.04356)"
LEFT_OUT = "the text decoder, the mel filters before it, sparsity in the weights"


class SpeechEncoder(nn.Module):
    """Mel frames ``[B, 80, T]`` -> states ``[B, T / 2, D]``."""

    def __init__(self, mels: int = 80, dim: int = 128, depth: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(mels, dim, 3, padding=1)
        self.conv2 = nn.Conv1d(dim, dim, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.norm, self.dim = nn.LayerNorm(dim), dim

    def places(self, length: int, like: torch.Tensor) -> torch.Tensor:
        """Fixed sines and cosines ``[length, D]``."""
        half = self.dim // 2
        rates = torch.exp(-math.log(1e4) * torch.arange(half, device=like.device) / (half - 1))
        angles = torch.arange(length, device=like.device)[:, None] * rates[None]
        return torch.cat([angles.sin(), angles.cos()], 1).to(like.dtype)

    def forward(self, mels: torch.Tensor) -> torch.Tensor:
        x = F.gelu(self.conv2(F.gelu(self.conv1(mels)))).transpose(1, 2)
        return self.norm(self.blocks(x + self.places(x.shape[1], x)))


def make(batch: int) -> tuple[nn.Module, Any]:
    return SpeechEncoder(), torch.randn(batch, 80, 300)
