"""Bytes and FLOPs of an int8 key-value cache and of attending over it."""

from __future__ import annotations

SCALE_BYTES = 2


def token_bytes(kv_heads: int, key_width: int, value_width: int) -> int:
    """One token of one sequence in one layer: integers and two bfloat16 scales per head."""
    return kv_heads * (key_width + value_width + 2 * SCALE_BYTES)


def attend_bytes(rows: int, heads: int, kv_heads: int, length: int, key_width: int,
                 value_width: int, item: int = 2) -> int:
    """Least traffic of one sequence and layer: the cache once, queries in, result out."""
    return length * token_bytes(kv_heads, key_width, value_width) + item * rows * heads * (
        key_width + value_width)


def attend_flops(rows: int, heads: int, length: int, key_width: int, value_width: int) -> int:
    return 2 * rows * heads * length * (key_width + value_width)
