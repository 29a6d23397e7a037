"""Bytes and FLOPs of one [M, K] x [N, K]ᵀ product with int8 weights."""

from __future__ import annotations

SCALE_BYTES = 2
ROW_TILE, COLUMN_TILE = 16, 64


def padded(n: int, k: int) -> tuple[int, int]:
    """(rows, columns) as stored: whole panels, whole blocks."""
    return -(-n // ROW_TILE) * ROW_TILE, -(-k // COLUMN_TILE) * COLUMN_TILE


def weight_bytes(n: int, k: int) -> int:
    """What is stored: one byte per weight and one bfloat16 scale per row, padding included."""
    n, k = padded(n, k)
    return n * k + SCALE_BYTES * n


def traffic_bytes(m: int, n: int, k: int, item: int = 2) -> int:
    """Least traffic: weights once, activations in, result out."""
    return weight_bytes(n, k) + item * (m * k + m * n)


def flops(m: int, n: int, k: int) -> int:
    return 2 * m * n * k
