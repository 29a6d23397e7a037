"""Bytes and FLOPs of one [M, K] x [N, K]ᵀ product with 4-bit weights in groups."""

from __future__ import annotations

PAIR_BYTES = 4  # bfloat16 scale and offset
ROW_TILE = 16


def weight_bytes(n: int, k: int, group: int) -> int:
    """What is stored: half a byte per weight and 4 bytes per group, padding included."""
    n, k = -(-n // ROW_TILE) * ROW_TILE, -(-k // group) * group
    return n * k // 2 + PAIR_BYTES * n * (k // group)


def bits_per_weight(group: int) -> float:
    """Without padding."""
    return 4 + 8 * PAIR_BYTES / group


def traffic_bytes(m: int, n: int, k: int, group: int, item: int = 2) -> int:
    """Least traffic: weights once, activations in, result out."""
    return weight_bytes(n, k, group) + item * (m * k + m * n)


def flops(m: int, n: int, k: int) -> int:
    return 2 * m * n * k
