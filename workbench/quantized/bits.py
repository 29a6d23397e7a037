"""Numbers of b bits in 32-bit words, densely and from the lowest bit up, as the formats store them.

32 numbers fill b words; where b does not divide 32 a number crosses from one word into the next.
"""

from __future__ import annotations

import torch


def pack(q: torch.Tensor, bits: int) -> torch.Tensor:
    """[rows, n] with values below 2^bits -> int32 [rows, ceil(n bits / 32)]."""
    rows, n = q.shape
    words = -(-n * bits // 32)
    spread = q.to(torch.uint8)[..., None] >> torch.arange(bits, dtype=torch.uint8) & 1
    flat = torch.nn.functional.pad(spread.reshape(rows, n * bits), (0, words * 32 - n * bits))
    octets = (flat.view(rows, -1, 8) << torch.arange(8, dtype=torch.uint8)).sum(-1, dtype=torch.uint8)
    return octets.contiguous().view(torch.int32)


def unpack(words: torch.Tensor, bits: int, n: int) -> torch.Tensor:
    """Inverse of :func:`pack` -> uint8 [rows, n]."""
    octets = words.contiguous().view(torch.uint8)
    flat = (octets[..., None] >> torch.arange(8, dtype=torch.uint8) & 1).view(len(octets), -1)
    parts = flat[:, :n * bits].reshape(len(octets), n, bits)
    return (parts << torch.arange(bits, dtype=torch.uint8)).sum(-1, dtype=torch.uint8)
