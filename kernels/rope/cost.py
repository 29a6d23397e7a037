"""Bytes and FLOPs of turning [M, heads, D]."""

from __future__ import annotations


def traffic_bytes(m: int, heads: int, width: int, item: int = 2) -> int:
    """Least traffic: every element in and out, one row of sines and cosines per token."""
    return 2 * item * m * heads * width + 4 * m * width


def flops(m: int, heads: int, width: int) -> int:
    """Two products and one sum per element."""
    return 3 * m * heads * width
