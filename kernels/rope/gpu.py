"""Triton: rotary embedding of queries and keys where they lie; angles from positions, no table."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _rotate(x, positions, frequency, y, heads, half, BH: tl.constexpr, BD: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * BH + tl.arange(0, BH)
    i = tl.arange(0, BD)
    inside = (head < heads)[:, None] & (i < half)[None, :]
    angle = tl.load(positions + token).to(tl.float32) * tl.load(frequency + i, mask=i < half, other=0.0)
    cos, sin = tl.cos(angle)[None, :], tl.sin(angle)[None, :]
    at = (token * heads + head[:, None]) * 2 * half + i[None, :]
    low = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(x + at + half, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + at, low * cos - high * sin, mask=inside)
    tl.store(y + at + half, high * cos + low * sin, mask=inside)


def rotate(x: torch.Tensor, positions: torch.Tensor, frequency: torch.Tensor) -> torch.Tensor:
    """``x`` [..., n, H, D], ``positions`` int [..., n], ``frequency`` float [D / 2] -> as ``x``."""
    x = x.contiguous()
    heads, width = x.shape[-2:]
    y = torch.empty_like(x)
    block = min(16, triton.next_power_of_2(heads))
    _rotate[(x.numel() // (heads * width), triton.cdiv(heads, block))](
        x,
        positions.contiguous(),
        frequency.float().contiguous(),
        y,
        heads,
        width // 2,
        BH=block,
        BD=triton.next_power_of_2(width // 2),
    )
    return y
