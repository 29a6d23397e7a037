"""Convolutions of rank-R one-way filters (a-priori CNN compression) as a wave-equation surrogate.

Every k x k kernel is a sum of R products of a column and a row filter, chosen before training:
2 k R instead of k k weights per pair of channels. With R = k any kernel can be written so.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

PAPER = "A-priori compression of convolutional neural networks for wave simulators"
LEFT_OUT = "three-dimensional kernels, finite-element data"


class Separable(nn.Module):
    """``k x 1`` filters to R channels per output, then ``1 x k`` filters that add them up."""

    def __init__(self, inner: int, outer: int, k: int = 5, rank: int = 2) -> None:
        super().__init__()
        self.columns = nn.Conv2d(inner, outer * rank, (k, 1), padding=(k // 2, 0), bias=False)
        self.rows = nn.Conv2d(outer * rank, outer, (1, k), padding=(0, k // 2), groups=outer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rows(self.columns(x))

    @torch.no_grad()
    def copy_from(self, dense: nn.Conv2d) -> None:
        """The best rank-R filters of a dense kernel, per pair of channels where there is one input.

        Exact when ``rank >= k`` and the dense layer has one input channel (columns are shared by the
        rows of an output, so several inputs need a column filter each)."""
        weight = dense.weight[:, 0]
        u, s, v = torch.linalg.svd(weight)
        rank = self.columns.out_channels // dense.out_channels
        root = s[:, :rank].sqrt()
        self.columns.weight.copy_((u[:, :, :rank] * root[:, None]).transpose(1, 2)
                                  .reshape(-1, 1, weight.shape[1], 1))
        self.rows.weight.copy_((v[:, :rank] * root[..., None])[:, :, None])
        assert self.rows.bias is not None
        if dense.bias is not None:
            self.rows.bias.copy_(dense.bias)


class WaveStep(nn.Module):
    """Pressure now and before ``[B, 2, H, W]`` -> the next step's ``[B, 1, H, W]``."""

    def __init__(self, width: int = 32, depth: int = 4) -> None:
        super().__init__()
        layers: list[nn.Module] = [Separable(2, width), nn.Tanh()]
        for _ in range(depth - 2):
            layers += [Separable(width, width), nn.Tanh()]
        self.layers = nn.Sequential(*layers, Separable(width, 1))

    def forward(self, field: torch.Tensor) -> torch.Tensor:
        return 2 * field[:, :1] - field[:, 1:] + 0.01 * self.layers(field)


def make(batch: int) -> tuple[nn.Module, Any]:
    return WaveStep(), torch.randn(batch, 2, 64, 64)
