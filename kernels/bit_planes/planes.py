"""Plane i of the store holds bit i of every number: [bits, N, K / 8], column 8 j + c in bit c of byte j.

Reading b planes is reading b / 8 bytes per number whatever b is; no width straddles a byte."""

from __future__ import annotations

import torch


def pack(q: torch.Tensor, bits: int) -> torch.Tensor:
    """uint8 [N, K] below 2^bits, K a multiple of 8 -> uint8 [bits, N, K / 8]."""
    parts = q.view(q.shape[0], -1, 8)
    at = torch.arange(8, dtype=torch.uint8, device=q.device)  # int64 would be eight times the memory
    return torch.stack([((parts >> i & 1) << at).sum(-1, dtype=torch.uint8) for i in range(bits)])


def unpack(planes: torch.Tensor) -> torch.Tensor:
    """Inverse of :func:`pack`."""
    at = torch.arange(8, device=planes.device)
    bits = planes[..., None] >> at & 1
    q = sum(bit << i for i, bit in enumerate(bits))
    return q.view(planes.shape[1], -1)  # type: ignore[union-attr]
