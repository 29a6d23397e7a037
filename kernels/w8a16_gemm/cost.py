"""Bytes and FLOPs of one [M, K] x [N, K]ᵀ product with int8 weights."""

from __future__ import annotations

SCALE_BYTES = 2
COLUMN_TILE = 16


def weight_bytes(n: int, k: int) -> int:
    """What is stored: one byte per weight (columns padded to 16), one bfloat16 scale per row."""
    return n * (-(-k // COLUMN_TILE) * COLUMN_TILE) + SCALE_BYTES * n


def traffic_bytes(m: int, n: int, k: int, item: int = 2) -> int:
    """Least traffic: weights once, activations in, result out."""
    return weight_bytes(n, k) + item * (m * k + m * n)


def flops(m: int, n: int, k: int) -> int:
    return 2 * m * n * k
