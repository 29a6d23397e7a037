"""Bipolar integers: every bit stands for +2^i or -2^i, so b bits are the odd numbers -(2^b - 1) .. 2^b - 1.

No sign plane and no lonely lowest value: a product of two such numbers is a sum of one-bit products, each
XNOR and popcount (Ma et al. 2024, arXiv:2409.17870, section 3):
w x = sum over i, j of 2^(i + j) (2 popcount(XNOR(W_i, X_j)) - K).
"""

from __future__ import annotations

import torch

from workbench.errors import SettingsError

WORD = 64


def values(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """uint8 codes below 2^bits -> int64, odd: 2 code - (2^bits - 1)."""
    return 2 * codes.long() - ((1 << bits) - 1)


def from_signed(q: torch.Tensor, bits: int) -> torch.Tensor:
    """Two's complement -2^(b-1) .. 2^(b-1) - 1 -> codes whose bipolar value is 2 q + 1: the same grid at
    half the step, moved by half a step."""
    return (q.long() + (1 << (bits - 1))).to(torch.uint8)


def planes(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """uint8 [rows, K] -> int64 words [bits, rows, ceil(K / 64)], bit c of word j is column 64 j + c; the
    padding is zeros. Raises SettingsError."""
    if not 1 <= bits <= 8:
        raise SettingsError(f"bipolar integers have 1 to 8 bits, not {bits}")
    padded = torch.nn.functional.pad(codes, (0, -codes.shape[1] % WORD))
    parts = padded.view(codes.shape[0], -1, WORD).long()
    at = torch.arange(WORD, device=codes.device)
    return torch.stack([((parts >> i & 1) << at).sum(-1) for i in range(bits)])


def popcount(words: torch.Tensor) -> torch.Tensor:
    """Set bits of each int64."""
    table = torch.tensor([i.bit_count() for i in range(256)], dtype=torch.uint8, device=words.device)
    octets = words.contiguous().view(torch.uint8).long()
    return table[octets].view(*words.shape, 8).sum(-1, dtype=torch.int64)


def matmul(x: torch.Tensor, w: torch.Tensor, columns: int) -> torch.Tensor:
    """Planes of activations [bx, m, words] and of weights [bw, n, words] -> int64 [m, n], exactly the
    product of the two integer matrices. ``columns``: K before padding.

    Padding is zero on both sides, so XNOR counts it as equal: its count is taken off again."""
    padding = x.shape[-1] * WORD - columns
    total = torch.zeros(x.shape[1], w.shape[1], dtype=torch.int64, device=x.device)
    for i, left in enumerate(x):
        for j, right in enumerate(w):
            equal = popcount(~(left[:, None] ^ right[None])).sum(-1) - padding
            total += (2 * equal - columns) << (i + j)
    return total
