"""Codes of b bits to bytes without gaps, b = 1 .. 8.

A row is a stream of bits, the first code lowest; whole rows are padded to bytes. Two 4-bit codes share a
byte low nibble first, as GGUF, torchao and bitsandbytes' readers of MX files expect of E2M1.
"""

from __future__ import annotations

import torch

from workbench.errors import SettingsError


def stored(columns: int, bits: int) -> int:
    """Bytes of one row."""
    return (columns * bits + 7) // 8


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """uint8 codes [..., columns] below 2^bits -> uint8 [..., stored(columns, bits)]. Raises SettingsError."""
    _check(bits)
    if codes.dtype != torch.uint8:
        raise SettingsError(f"codes are uint8, not {codes.dtype}")
    if codes.numel() and int(codes.max()) >> bits:
        raise SettingsError(f"a code of {int(codes.max())} does not fit {bits} bits")
    if bits == 8:
        return codes.clone()
    group = 8 if bits % 2 else (4 if bits % 4 else 2)  # codes that fill whole bytes
    padded = torch.nn.functional.pad(codes, (0, -codes.shape[-1] % group))
    parts = padded.unflatten(-1, (-1, group)).long()
    word = sum(parts[..., i] << (bits * i) for i in range(group))
    lanes = [(word >> (8 * i) & 255).to(torch.uint8) for i in range(group * bits // 8)]
    flat = torch.stack(lanes, -1).flatten(-2)
    return flat[..., :stored(codes.shape[-1], bits)].contiguous()


def unpack(packed: torch.Tensor, bits: int, columns: int) -> torch.Tensor:
    """Inverse of :func:`pack`: uint8 [..., columns]."""
    _check(bits)
    if bits == 8:
        return packed[..., :columns].clone()
    group = 8 if bits % 2 else (4 if bits % 4 else 2)
    size = group * bits // 8
    padded = torch.nn.functional.pad(packed, (0, -packed.shape[-1] % size))
    lanes = padded.unflatten(-1, (-1, size)).long()
    word = sum(lanes[..., i] << (8 * i) for i in range(size))
    codes = [(word >> (bits * i) & ((1 << bits) - 1)).to(torch.uint8) for i in range(group)]
    return torch.stack(codes, -1).flatten(-2)[..., :columns].contiguous()


def _check(bits: int) -> None:
    if not 1 <= bits <= 8:
        raise SettingsError(f"codes have 1 to 8 bits, not {bits}")
