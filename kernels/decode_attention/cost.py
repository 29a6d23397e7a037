"""Bytes and FLOPs of attending with n rows of queries over a cache of S tokens."""

from __future__ import annotations

SCALE_BYTES = 2  # a bfloat16 scale per token and head where the cache is int8


def token_bytes(kv_heads: int, key_width: int, value_width: int, *, int8: bool = False) -> int:
    """One cached token of one layer."""
    if int8:
        return kv_heads * (key_width + value_width + 2 * SCALE_BYTES)
    return 2 * kv_heads * (key_width + value_width)


def traffic_bytes(rows: int, heads: int, kv_heads: int, length: int, key_width: int,
                  value_width: int, *, int8: bool = False, item: int = 2) -> int:
    """Least traffic of one sequence: its cache once for all rows, queries in, result out."""
    cache = length * token_bytes(kv_heads, key_width, value_width, int8=int8)
    return cache + item * rows * heads * (key_width + value_width)


def flops(rows: int, heads: int, length: int, key_width: int, value_width: int) -> int:
    return 2 * rows * heads * length * (key_width + value_width)
