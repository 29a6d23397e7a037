"""The GPU's layout of two 4-bit numbers per byte: the halves of a group in the two nibbles."""

from __future__ import annotations

import torch


def pack(q: torch.Tensor, group: int) -> torch.Tensor:
    """uint8 [Np, Kp] with values 0..15 -> [Np, Kp / 2]: byte j of a group holds column j (low) and
    column j + group / 2 (high)."""
    low, high = q.view(q.shape[0], -1, 2, group // 2).unbind(2)
    return (low | (high << 4)).reshape(q.shape[0], -1)


def unpack(packed: torch.Tensor, group: int) -> torch.Tensor:
    """Inverse of :func:`pack`."""
    halves = packed.view(packed.shape[0], -1, 1, group // 2)
    return torch.cat((halves & 15, halves >> 4), 2).view(packed.shape[0], -1)
