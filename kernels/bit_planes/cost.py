"""Bytes and FLOPs of one [M, K] x [N, K]ᵀ product with b-bit planes in groups."""

from __future__ import annotations

PAIR_BYTES = 4


def weight_bytes(n: int, k: int, bits: int, group: int) -> int:
    return n * k * bits // 8 + PAIR_BYTES * n * (k // group)


def bits_per_weight(bits: int, group: int) -> float:
    return bits + 8 * PAIR_BYTES / group


def traffic_bytes(m: int, n: int, k: int, bits: int, group: int, item: int = 2) -> int:
    """Least traffic: weights once, activations in, result out."""
    return weight_bytes(n, k, bits, group) + item * (m * k + m * n)


def flops(m: int, n: int, k: int) -> int:
    return 2 * m * n * k
