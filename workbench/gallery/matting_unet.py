"""Portrait matting U-Net (WSSHM): a soft mask per pixel, sensitive to the precision of its end."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

PAPER = "Weakly semi-supervised human matting, arXiv:2404.00921"
LEFT_OUT = "the blending of teacher and labels, real portraits"


def stage(inner: int, outer: int) -> nn.Sequential:
    """A depthwise and a pointwise convolution, as real-time models use."""
    return nn.Sequential(nn.Conv2d(inner, inner, 3, padding=1, groups=inner), nn.Conv2d(inner, outer, 1),
                         nn.BatchNorm2d(outer), nn.ReLU())


class Matting(nn.Module):
    """Images ``[B, 3, H, W]`` -> opacity in 0..1 ``[B, 1, H, W]``; H and W divisible by 8."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        w = width
        self.first = nn.Conv2d(3, w, 3, padding=1)
        self.down = nn.ModuleList([stage(w, 2 * w), stage(2 * w, 4 * w), stage(4 * w, 4 * w)])
        self.up = nn.ModuleList([stage(8 * w, 2 * w), stage(4 * w, w), stage(2 * w, w)])
        self.last = nn.Conv2d(w, 1, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.first(images)
        kept = []
        for layer in self.down:
            kept.append(x)
            x = layer(F.max_pool2d(x, 2))
        for layer, skip in zip(self.up, reversed(kept), strict=True):
            x = layer(torch.cat([F.interpolate(x, scale_factor=2, mode="bilinear"), skip], 1))
        return self.last(x).sigmoid()


def make(batch: int) -> tuple[nn.Module, Any]:
    return Matting(), torch.rand(batch, 3, 64, 64)
