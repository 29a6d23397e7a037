"""Panels of codes of 1 .. 8 bits as fields of 8, 4, 2 and 1 bits, and of scales of one byte (``linear.h``).

Every width is a sum of those, none straddles a byte, and a vector instruction takes each apart with one
shift: reading b bits per code is reading b / 8 bytes. Torch only.
"""

from __future__ import annotations

import torch

PANEL, STEP = 16, 32
#: Bytes before the scales of up to 16 groups that are stored twice over, and groups of such a section.
HEAD, SECTION = 16, 16


def widths(bits: int) -> list[tuple[int, int]]:
    """(width, lowest bit) of each field, widest first."""
    found, at = [], 0
    for width in (8, 4, 2, 1):
        if bits & width:
            found.append((width, at))
            at += width
    return found


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """uint8 [Np, Kp] below 2^bits -> uint8 [Np / 16, Kp * 2 * bits]; Np % 16 == 0, Kp % 32 == 0."""
    n, k = codes.shape
    parts = codes.view(n // PANEL, PANEL, k // STEP, 8, 2, 2)       # panel, row, step, vector, h, p
    vectors = parts.permute(0, 2, 3, 1, 5, 4).reshape(n // PANEL, k // STEP, 8, 64)
    lines = []
    for width, at in widths(bits):
        each = 8 // width
        field = (vectors >> at & ((1 << width) - 1)).unflatten(2, (width, each))
        line = field[..., 0, :].clone()
        for i in range(1, each):
            line |= field[..., i, :] << (i * width)
        lines.append(line)
    return torch.cat(lines, 2).reshape(n // PANEL, k * 2 * bits)


def unpack(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """Inverse of :func:`pack`: uint8 [Np, Kp]."""
    panels, k = packed.shape[0], packed.shape[1] // (2 * bits)
    lines = packed.view(panels, k // STEP, bits, 64)
    vectors = torch.zeros(panels, k // STEP, 8, 64, dtype=torch.uint8, device=packed.device)
    for width, at in widths(bits):
        each = 8 // width
        for i in range(each):
            field = lines[:, :, at:at + width] >> (i * width) & ((1 << width) - 1)
            vectors[:, :, i::each] |= field << at
    parts = vectors.view(panels, k // STEP, 8, PANEL, 2, 2)          # panel, step, vector, row, p, h
    return parts.permute(0, 3, 1, 2, 5, 4).reshape(panels * PANEL, k)


def pack_bytes(scales: torch.Tensor) -> torch.Tensor:
    """uint8 [Np, groups] -> [Np / 16, groups * 16]."""
    n, groups = scales.shape
    return scales.view(n // PANEL, PANEL, groups).permute(0, 2, 1).reshape(n // PANEL, groups * PANEL)


def unpack_bytes(packed: torch.Tensor) -> torch.Tensor:
    """Inverse of :func:`pack_bytes`."""
    panels = packed.shape[0]
    return packed.view(panels, -1, PANEL).permute(0, 2, 1).reshape(panels * PANEL, -1)


def double_bytes(groups: int) -> int:
    """Bytes of a panel's scales that are stored twice over."""
    return HEAD * -(-groups // SECTION) + PANEL * groups


def pack_double(codes: torch.Tensor, second: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """``codes`` uint8 [Np, groups] in E4M3, ``second`` and ``mean`` float32 [Np / 16, sections] ->
    uint8 [Np / 16, double_bytes(groups)]."""
    flat, panels = pack_bytes(codes), second.shape[0]
    heads = torch.stack((second, mean, torch.zeros_like(mean), torch.zeros_like(mean)), -1)
    heads = heads.contiguous().view(torch.uint8).view(panels, -1, HEAD)
    parts = []
    for i, part in enumerate(flat.split(SECTION * PANEL, 1)):
        parts += [heads[:, i], part]
    return torch.cat(parts, 1)


def unpack_double(packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inverse of :func:`pack_double`."""
    codes, heads = [], []
    for part in packed.split(HEAD + SECTION * PANEL, 1):
        heads.append(part[:, :HEAD].contiguous().view(torch.float32))
        codes.append(part[:, HEAD:])
    head = torch.stack(heads, 1)
    return unpack_bytes(torch.cat(codes, 1)), head[..., 0].contiguous(), head[..., 1].contiguous()
