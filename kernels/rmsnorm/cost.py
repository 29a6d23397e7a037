"""Bytes and FLOPs of one normalization of [M, D]."""

from __future__ import annotations


def traffic_bytes(m: int, d: int, *, item: int = 2, stream_item: int = 4, residual: bool = True
                  ) -> int:
    """Least traffic: what is added in, the stream in and out, the weight once, the result out."""
    stream = 2 * stream_item * m * d if residual else 0
    return stream + 2 * item * m * d + item * d


def flops(m: int, d: int, *, residual: bool = True) -> int:
    """Square, sum, two products per element, one more for the added residual."""
    return (4 + residual) * m * d
