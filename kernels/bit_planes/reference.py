"""Any width b of 1 .. 8 bits in groups: w = s (q - m) + z, and the bipolar reading of the same bits.

Unsigned: q in 0 .. 2^b - 1, m = 2^(b - 1), z as stored. Bipolar (Ma et al. 2024, arXiv:2409.17870, section
3): bit i
stands for 2^i times +1 or -1, so q' = 2 q - (2^b - 1) is odd and symmetric; with s' = s / 2 and z' = z + s
(2^b - 1 -
2 m) / 2 the two are the same numbers, which :func:`bipolar` shows. s and z are bfloat16, one pair per group
of columns.
"""

from __future__ import annotations

import torch


def quantize(weight: torch.Tensor, bits: int, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    """[N, K] with K a multiple of ``group`` -> q uint8 [N, K], pairs bfloat16 [K / group, N, 2] (s, z);
    rounding to
    nearest on the grid from min to max of each group."""
    if not 1 <= bits <= 8:
        raise ValueError(f"widths go from 1 to 8 bits, not {bits}")
    n, k = weight.shape
    parts = weight.float().view(n, k // group, group)
    low, high = parts.amin(-1, keepdim=True), parts.amax(-1, keepdim=True)
    if bits == 1:  # the mean of each side, not the extremes
        mean = parts.mean(-1, keepdim=True)
        spread = (parts - mean).abs().mean(-1, keepdim=True)
        low, high = mean - spread, mean + spread
    s = ((high - low) / (2**bits - 1)).clamp_(min=1e-30).bfloat16().float()
    z = (low + s * 2 ** (bits - 1)).bfloat16().float()
    q = torch.round((parts - z) / s + 2 ** (bits - 1)).clamp_(0, 2**bits - 1)
    pairs = torch.cat((s, z), -1).permute(1, 0, 2)
    return q.to(torch.uint8).view(n, k), pairs.bfloat16().contiguous()


def dequantize(
    q: torch.Tensor, pairs: torch.Tensor, bits: int, dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    """Inverse of :func:`quantize`, up to rounding."""
    n, k = q.shape
    s, z = pairs.to(dtype).permute(1, 0, 2).unbind(-1)
    parts = q.to(dtype).view(n, s.shape[1], -1)
    return ((parts - 2 ** (bits - 1)) * s[..., None] + z[..., None]).view(n, k)


def bipolar(q: torch.Tensor, bits: int) -> torch.Tensor:
    """The sum of +-2^i over the bits of q: int64, odd."""
    return sum(((q.long() >> i & 1) * 2 - 1) << i for i in range(bits))  # type: ignore[return-value]


def matmul(x: torch.Tensor, q: torch.Tensor, pairs: torch.Tensor, bits: int) -> torch.Tensor:
    """``x`` [M, K] -> float64 [M, N]."""
    return x.double() @ dequantize(q, pairs, bits).T
