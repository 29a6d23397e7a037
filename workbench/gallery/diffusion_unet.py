"""Diffusion U-Net (DDPM, the subject of low-bit floating-point diffusion): one denoising step.

Residual blocks that take the noise level, attention at the lowest resolution, skip connections.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

PAPER = "Low-bitwidth floating point quantization for efficient diffusion models, arXiv:2408.06995"
LEFT_OUT = "the sampler's loop, an autoencoder around it, text conditioning"


def time_code(t: torch.Tensor, dim: int) -> torch.Tensor:
    """Sines and cosines of the noise level ``[B]`` -> ``[B, dim]``."""
    rates = torch.exp(-math.log(1e4) * torch.arange(dim // 2, device=t.device) / (dim // 2)).to(t.dtype)
    angles = t[:, None] * rates[None]
    return torch.cat([angles.sin(), angles.cos()], 1)


class Residual(nn.Module):
    """Two convolutions; the noise level shifts the channels in between."""

    def __init__(self, inner: int, outer: int, code: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, inner), nn.Conv2d(inner, outer, 3, padding=1)
        self.level = nn.Linear(code, outer)
        self.norm2, self.conv2 = nn.GroupNorm(8, outer), nn.Conv2d(outer, outer, 3, padding=1)
        self.skip = nn.Conv2d(inner, outer, 1) if inner != outer else nn.Identity()

    def forward(self, x: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.level(code)[:, :, None, None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class Middle(nn.Module):
    """Self-attention over the pixels of the lowest resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.qkv = nn.GroupNorm(8, channels), nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).view(b, 3, c, h * w).transpose(2, 3).unbind(1)
        return x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).view(b, c, h, w))


class DiffusionUNet(nn.Module):
    """Noisy images ``[B, 3, 32, 32]`` and noise levels ``[B]`` -> predicted noise."""

    def __init__(self, width: int = 32, code: int = 64) -> None:
        super().__init__()
        self.code = nn.Sequential(nn.Linear(code, code), nn.SiLU(), nn.Linear(code, code))
        self.width_code = code
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.down1, self.down2 = Residual(width, width, code), Residual(width, 2 * width, code)
        self.mid1, self.attend = Residual(2 * width, 2 * width, code), Middle(2 * width)
        self.up2, self.up1 = Residual(4 * width, width, code), Residual(2 * width, width, code)
        self.last = nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        code = self.code(time_code(t, self.width_code))
        a = self.down1(self.first(x), code)
        b = self.down2(F.avg_pool2d(a, 2), code)
        m = self.attend(self.mid1(F.avg_pool2d(b, 2), code))
        h = self.up2(torch.cat([F.interpolate(m, scale_factor=2), b], 1), code)
        return self.last(self.up1(torch.cat([F.interpolate(h, scale_factor=2), a], 1), code))


def make(batch: int) -> tuple[nn.Module, Any]:
    return DiffusionUNet(), (torch.randn(batch, 3, 32, 32), torch.rand(batch) * 1000)
