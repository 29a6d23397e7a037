"""Diffusion transformer (DiT): patches, adaptive norms that the noise level and the class steer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from workbench.gallery.diffusion_unet import time_code
from workbench.gallery.vision_transformer import Attention

PAPER = "Scalable diffusion models with transformers, arXiv:2212.09748"
LEFT_OUT = "the latent autoencoder, classifier-free guidance, learned variance"


class SteeredBlock(nn.Module):
    """Six vectors per block from the condition: shift, scale and gate, for attention and MLP."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(dim, heads)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(approximate="tanh"),
                                 nn.Linear(4 * dim, dim))
        self.steer = nn.Linear(dim, 6 * dim)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        a, b, c, d, e, f = self.steer(F.silu(condition))[:, None].chunk(6, -1)
        x = x + c * self.attention(F.layer_norm(x, x.shape[-1:]) * (1 + b) + a)
        return x + f * self.mlp(F.layer_norm(x, x.shape[-1:]) * (1 + e) + d)


class DiffusionTransformer(nn.Module):
    """Latents ``[B, 4, 16, 16]``, noise levels ``[B]``, classes ``[B]`` -> predicted noise."""

    def __init__(self, dim: int = 128, depth: int = 4, heads: int = 4, classes: int = 10) -> None:
        super().__init__()
        self.dim = dim
        self.patches = nn.Conv2d(4, dim, 2, 2)
        self.places = nn.Parameter(0.02 * torch.randn(1, 64, dim))
        self.level, self.kind = nn.Linear(dim, dim), nn.Embedding(classes, dim)
        self.blocks = nn.ModuleList(SteeredBlock(dim, heads) for _ in range(depth))
        self.last = nn.Linear(dim, 16)

    def forward(self, x: torch.Tensor, t: torch.Tensor, kind: torch.Tensor) -> torch.Tensor:
        condition = self.level(time_code(t, self.dim)) + self.kind(kind)
        h = self.patches(x).flatten(2).transpose(1, 2) + self.places
        for block in self.blocks:
            h = block(h, condition)
        h = self.last(F.layer_norm(h, h.shape[-1:]))
        return F.pixel_shuffle(h.transpose(1, 2).reshape(len(x), 16, 8, 8), 2)


def make(batch: int) -> tuple[nn.Module, Any]:
    return DiffusionTransformer(), (torch.randn(batch, 4, 16, 16), torch.rand(batch) * 1000,
                                    torch.randint(0, 10, (batch,)))
