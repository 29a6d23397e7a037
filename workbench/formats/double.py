"""Double quantization: NF4's scales as one byte each (Dettmers et al. 2023, arXiv:2305.14314, section 3).

The mean of all scales is subtracted, then blocks of 256 are stored as FP8 E4M3 under one float32 scale:
32 bits per 64 weights become 8 + 32 / 256, so 0.127 bits per weight instead of 0.5. (bitsandbytes stores
these bytes in a table of its own, finer near zero; the sizes are the same.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from workbench.formats import elements

BLOCK = 256


@dataclass(frozen=True)
class Doubled:
    """``codes`` uint8 in the shape of the scales; ``second`` float32 [ceil(count / 256)]; ``mean`` scalar."""

    codes: torch.Tensor
    second: torch.Tensor
    mean: torch.Tensor

    @property
    def nbytes(self) -> int:
        return self.codes.numel() + 4 * self.second.numel() + 4


def store(scales: torch.Tensor) -> Doubled:
    """Non-negative finite ``scales`` of any shape -> bytes."""
    flat = scales.float().reshape(-1)
    mean = flat.mean()
    parts = F.pad(flat - mean, (0, -flat.numel() % BLOCK)).view(-1, BLOCK)
    second = parts.abs().amax(1) / elements.E4M3.largest
    safe = torch.where(second > 0, second, torch.ones_like(second))
    codes = elements.encode(parts / safe[:, None], elements.E4M3)
    return Doubled(codes.view(-1)[:flat.numel()].view(scales.shape).contiguous(), second, mean)


def load(held: Doubled, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Inverse of :func:`store`, up to rounding; never below zero."""
    values = elements.decode(held.codes, elements.E4M3, dtype).reshape(-1)
    factor = held.second.to(dtype).repeat_interleave(BLOCK)[:values.numel()]
    return (values * factor + held.mean.to(dtype)).clamp_(min=0).view(held.codes.shape)


def bits_per_scale(count: int) -> float:
    """Stored bits per scale of a tensor with ``count`` scales."""
    return 8 + (32 * -(-count // BLOCK) + 32) / count
