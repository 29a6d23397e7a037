"""A diffusion model of points in the plane, trained in seconds: what its quantized copies are judged by.

Eight clusters on a circle; a network of the noise level and the point predicts the noise (DDPM,
arXiv:2006.11239). Sampling is deterministic from given noise (DDIM, arXiv:2010.02502), so a quantized copy's
samples can be compared with the float model's one by one, which tells more than a distance of
distributions.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from workbench.gallery.diffusion_unet import time_code

LEVELS, CODE = 100, 32


def points(count: int, generator: torch.Generator) -> torch.Tensor:
    """[count, 2], standard deviation near 1."""
    angle = torch.randint(8, (count,), generator=generator) * (math.pi / 4)
    spread = 0.08 * torch.randn(count, 2, generator=generator)
    return 1.4 * torch.stack((angle.cos(), angle.sin()), 1) + spread


def kept() -> torch.Tensor:
    """Share of the signal's power that is left at each level (cosine schedule)."""
    at = torch.arange(1, LEVELS + 1) / (LEVELS + 1)
    return torch.cos(at * math.pi / 2) ** 2


class Denoiser(nn.Module):
    """Noisy points [B, 2] and levels [B] -> predicted noise [B, 2]."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2 + CODE, width), nn.Linear(width, 2)
        self.inner = nn.ModuleList(nn.Linear(width, width) for _ in range(3))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        h = torch.nn.functional.silu(self.first(torch.cat((x, time_code(t.float(), CODE)), 1)))
        for layer in self.inner:
            h = h + torch.nn.functional.silu(layer(h))
        out: torch.Tensor = self.last(h)
        return out


def train(steps: int = 1500, batch: int = 256, seed: int = 0) -> Denoiser:
    """The float model."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Denoiser()
    made, share = torch.Generator().manual_seed(seed), kept()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(steps):
        x, noise = points(batch, made), torch.randn(batch, 2, generator=made)
        t = torch.randint(LEVELS, (batch,), generator=made)
        mixed = share[t].sqrt()[:, None] * x + (1 - share[t]).sqrt()[:, None] * noise
        loss = (model(mixed, t) - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def sample(model: nn.Module, noise: torch.Tensor, stride: int = 4) -> torch.Tensor:
    """Points [B, 2] from ``noise`` [B, 2], every ``stride``-th level."""
    share, x = kept(), noise
    levels = list(range(LEVELS - 1, -1, -stride))
    for i, level in enumerate(levels):
        predicted = model(x, torch.full((len(x),), level))
        a = share[level]
        clean = ((x - (1 - a).sqrt() * predicted) / a.sqrt()).clamp(-3, 3)
        b = share[levels[i + 1]] if i + 1 < len(levels) else torch.ones(())
        x = b.sqrt() * clean + (1 - b).sqrt() * predicted
    return x


def start(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
