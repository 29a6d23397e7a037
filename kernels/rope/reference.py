"""The definition: the pair (x_i, x_{i + D/2}) is turned by the angle position * f_i, in float64.

Su et al. 2021, arXiv:2104.09864, section 3.2.2, with the pairing of elements i and i + D/2.
"""

from __future__ import annotations

import torch


def frequencies(width: int, theta: float) -> torch.Tensor:
    """f_i = theta^(-2 i / D), float64 [D / 2]."""
    return theta ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)


def rotate(x: torch.Tensor, positions: torch.Tensor, frequency: torch.Tensor) -> torch.Tensor:
    """``x`` [..., n, H, D], ``positions`` int [..., n], ``frequency`` [D / 2] -> float64, as ``x``."""
    angle = positions[..., None, None].double() * frequency.double()
    low, high = x.double().chunk(2, -1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([low * cos - high * sin, high * cos + low * sin], -1)
