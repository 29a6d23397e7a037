"""Splatting of Gaussians in space and time (4D Gaussian splatting), flat: slice, sort, blend.

Every Gaussian lives in (x, y, t). At a time it is the conditional Gaussian in the plane, weighted by how
near that time is; the visible ones are sorted by depth and blended front to back.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

PAPER = "4D Gaussian splatting, arXiv:2402.03307"
LEFT_OUT = "the camera, tiles, spherical harmonics, training: a renderer of the plane, in tensor operators"


class Splatter(nn.Module):
    """Times ``[B]`` -> images ``[B, 3, S, S]``."""

    def __init__(self, gaussians: int = 256, size: int = 48) -> None:
        super().__init__()
        self.size = size
        self.mean = nn.Parameter(torch.rand(gaussians, 3))
        self.factor = nn.Parameter(0.06 * torch.randn(gaussians, 3, 3) + 0.05 * torch.eye(3))
        self.colour = nn.Parameter(torch.rand(gaussians, 3))
        self.opacity = nn.Parameter(torch.rand(gaussians))
        self.depth = nn.Parameter(torch.rand(gaussians))

    def sliced(self, times: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean ``[B, N, 2]``, precision ``[N, 2, 2]`` and weight ``[B, N]`` of the conditional Gaussians."""
        cover = self.factor @ self.factor.transpose(1, 2) + 1e-4 * torch.eye(3).to(self.factor)
        plane, cross, time = cover[:, :2, :2], cover[:, :2, 2], cover[:, 2, 2]
        apart = times[:, None] - self.mean[None, :, 2]
        mean = self.mean[None, :, :2] + cross * (apart / time)[..., None]
        conditional = plane - cross[:, :, None] * cross[:, None] / time[:, None, None]
        a, b, d = conditional[:, 0, 0], conditional[:, 0, 1], conditional[:, 1, 1]
        precision = torch.stack([d, -b, -b, a], -1).view(-1, 2, 2) / (a * d - b * b)[:, None, None]
        return mean, precision, torch.exp(-0.5 * apart**2 / time)

    def weights(self, times: torch.Tensor) -> torch.Tensor:
        """What each Gaussian, nearest first, adds to each pixel ``[B, N, P]``; sums to at most one."""
        mean, precision, near = self.sliced(times)
        line = (torch.arange(self.size, device=times.device, dtype=times.dtype) + 0.5) / self.size
        pixels = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).view(-1, 2)
        order = self.depth.argsort()
        apart = pixels - mean[:, order, None]
        energy = (apart * (apart @ precision[order])).sum(-1)
        alpha = (self.opacity[order].clamp(0, 1) * near[:, order])[..., None] * torch.exp(-0.5 * energy)
        alpha = alpha.clamp(max=0.999)
        before = torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha], 1).cumprod(1)[:, :-1]
        return alpha * before

    def forward(self, times: torch.Tensor) -> torch.Tensor:
        colours = self.colour[self.depth.argsort()]
        image = torch.einsum("bnp,nc->bcp", self.weights(times), colours)
        return image.view(len(times), 3, self.size, self.size)


def make(batch: int) -> tuple[nn.Module, Any]:
    return Splatter(), torch.rand(batch)
