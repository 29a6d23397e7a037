"""One-step speech synthesis (CoMoSpeech): a consistency model's skip and scale around a U-Net.

The student maps any noise level to the clean mel directly: f(x, s) = c_skip(s) x + c_out(s) U(c_in(s) x, s),
with f(x, s_min) = x by construction. ``steps`` above one refine it, as the teacher's sampler would.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from workbench.gallery.diffusion_unet import Residual, time_code

PAPER = "CoMoSpeech, arXiv:2305.06908"
LEFT_OUT = "the text encoder's alignment, the vocoder, distillation"


class ConsistencySpeech(nn.Module):
    """Text states ``[B, T, D]`` and noise ``[B, 1, 80, T]`` -> mel ``[B, 1, 80, T]``."""

    LOW, HIGH, DATA = 0.002, 80.0, 0.5

    def __init__(self, dim: int = 64, width: int = 32, steps: int = 1) -> None:
        super().__init__()
        self.text = nn.TransformerEncoderLayer(dim, 4, 4 * dim, batch_first=True, dropout=0.0)
        self.mean = nn.Linear(dim, 80)
        self.first = nn.Conv2d(2, width, 3, padding=1)
        self.down, self.mid = Residual(width, width, 64), Residual(width, width, 64)
        self.up = Residual(2 * width, width, 64)
        self.last = nn.Conv2d(width, 1, 3, padding=1)
        self.steps = steps

    def network(self, x: torch.Tensor, mean: torch.Tensor, sigma: float) -> torch.Tensor:
        level = torch.full((len(x),), 250 * torch.tensor(sigma).log().item(), device=x.device, dtype=x.dtype)
        code = time_code(level, 64)
        a = self.down(self.first(torch.cat([x, mean], 1)), code)
        m = self.mid(F.avg_pool2d(a, 2), code)
        return self.last(self.up(torch.cat([F.interpolate(m, scale_factor=2), a], 1), code))

    def clean(self, x: torch.Tensor, mean: torch.Tensor, sigma: float) -> torch.Tensor:
        """The consistency function."""
        low, data = self.LOW, self.DATA
        skip = data**2 / ((sigma - low) ** 2 + data**2)
        out = data * (sigma - low) / (data**2 + sigma**2) ** 0.5
        inner = x / (sigma**2 + data**2) ** 0.5
        return skip * x + out * self.network(inner, mean, sigma)

    def forward(self, states: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        mean = self.mean(self.text(states)).transpose(1, 2)[:, None]
        x, sigma = noise * self.HIGH, self.HIGH
        for step in range(self.steps):
            x = self.clean(x, mean, sigma)
            if step + 1 < self.steps:
                sigma = self.HIGH * (self.LOW / self.HIGH) ** ((step + 1) / self.steps)
                x = x + (sigma**2 - self.LOW**2) ** 0.5 * noise
        return x


def make(batch: int) -> tuple[nn.Module, Any]:
    return ConsistencySpeech(), (torch.randn(batch, 64, 64), torch.randn(batch, 1, 80, 64))
