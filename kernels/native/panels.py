"""Panels of 16 rows in the order in which the native kernels read them (see ``linear.h``). Torch only."""

from __future__ import annotations

import torch

PANEL = 16


def pack_nibbles(q: torch.Tensor) -> torch.Tensor:
    """uint8 [Np, Kp] with values 0..15 -> uint8 [Np / 16, Kp * 8]; Np % 16 == 0, Kp % 8 == 0."""
    n, k = q.shape
    # 16-bit word 2 r + p holds columns p, 2 + p, 4 + p, 6 + p of row r from its lowest nibble up.
    parts = q.view(n // PANEL, PANEL, k // 8, 2, 2, 2)  # panel, row, eight, byte, nibble, p
    parts = parts.permute(0, 2, 1, 5, 3, 4)             # panel, eight, row, p, byte, nibble
    return (parts[..., 0] | (parts[..., 1] << 4)).reshape(n // PANEL, k * 8)


def unpack_nibbles(packed: torch.Tensor) -> torch.Tensor:
    """Inverse of :func:`pack_nibbles`."""
    panels, k = packed.shape[0], packed.shape[1] // 8
    parts = packed.view(panels, k // 8, PANEL, 2, 2, 1)
    parts = torch.cat((parts & 15, parts >> 4), -1)     # panel, eight, row, p, byte, nibble
    return parts.permute(0, 2, 1, 4, 5, 3).reshape(panels * PANEL, k)


def pack_bytes(q: torch.Tensor) -> torch.Tensor:
    """int8 [Np, Kp] -> uint8 [Np / 16, Kp * 16] of q + 128; Np % 16 == 0, Kp % 4 == 0."""
    n, k = q.shape
    parts = (q.view(torch.uint8) ^ 128).view(n // PANEL, PANEL, k // 4, 2, 2)  # panel, row, four, h, p
    return parts.permute(0, 2, 1, 4, 3).reshape(n // PANEL, k * PANEL)


def unpack_bytes(packed: torch.Tensor) -> torch.Tensor:
    """Inverse of :func:`pack_bytes`."""
    panels, k = packed.shape[0], packed.shape[1] // PANEL
    parts = (packed ^ 128).view(torch.int8).view(panels, k // 4, PANEL, 2, 2)
    return parts.permute(0, 2, 1, 4, 3).reshape(panels * PANEL, k)


def pack_scales(scales: torch.Tensor) -> torch.Tensor:
    """[groups, Np, c] -> [Np / 16, groups, c, 16]."""
    groups, n, c = scales.shape
    return scales.view(groups, n // PANEL, PANEL, c).permute(1, 0, 3, 2).contiguous()


def unpack_scales(packed: torch.Tensor) -> torch.Tensor:
    """Inverse of :func:`pack_scales`."""
    panels, groups, c, _ = packed.shape
    return packed.permute(1, 0, 3, 2).reshape(groups, panels * PANEL, c)
