"""Codes of 2 or 4 bits in bytes, so that every field of a byte is a contiguous run when it is taken out.

Along an axis of n codes, byte j of n b / 8 holds codes j, j + n b / 8, j + 2 n b / 8 ... from its lowest
bits up.
"""

from __future__ import annotations

import torch


def pack(codes: torch.Tensor, bits: int, dim: int) -> torch.Tensor:
    """uint8 [..., n, ...] with values below 2^bits -> uint8 [..., n bits / 8, ...]."""
    fields = 8 // bits
    parts = codes.chunk(fields, dim)
    out = parts[0].clone()
    for i, part in enumerate(parts[1:], 1):
        out |= part << (bits * i)
    return out


def unpack(packed: torch.Tensor, bits: int, dim: int) -> torch.Tensor:
    """Inverse of :func:`pack`."""
    mask = 2**bits - 1
    return torch.cat([(packed >> (bits * i)) & mask for i in range(8 // bits)], dim)
