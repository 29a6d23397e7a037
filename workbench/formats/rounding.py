"""Stochastic rounding: up with the probability that makes the mean right (arXiv:1502.02551, section 3)."""

from __future__ import annotations

import torch

from workbench.formats.elements import Element


def stochastic(x: torch.Tensor, element: Element, noise: torch.Tensor) -> torch.Tensor:
    """uint8 codes: the level above with probability (x - below) / (above - below). ``noise`` uniform in
    [0, 1), shaped like ``x``; beyond the last level it saturates, which is the only bias."""
    levels = torch.tensor(element.rising(), dtype=x.dtype, device=x.device)
    at = (x.abs() if element.mirrored else x).clamp(levels[0], levels[-1]).contiguous()
    below = (torch.bucketize(at, levels, right=True) - 1).clamp(0, len(levels) - 2)
    share = (at - levels[below]) / (levels[below + 1] - levels[below])
    code = (below + (noise < share)).to(torch.uint8)
    if element.mirrored:
        code |= torch.signbit(x).to(torch.uint8) << (element.bits - 1)
    return code
