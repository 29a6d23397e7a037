"""Bytes and FLOPs of the activation of [M, D]."""

from __future__ import annotations


def traffic_bytes(m: int, d: int, item: int = 2) -> int:
    """Least traffic: two tensors in, one out."""
    return 3 * item * m * d


def flops(m: int, d: int) -> int:
    """Exponential, sum, division and two products per element."""
    return 5 * m * d
