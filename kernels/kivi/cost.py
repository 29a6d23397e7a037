"""Bytes and FLOPs of a KIVI cache and of attending over it."""

from __future__ import annotations

PAIR_BYTES = 4  # bfloat16 step and offset of a group


def vector_bytes(width: int, bits: int, group: int) -> float:
    """One packed key or value of one head; a key's pairs are shared by ``group`` tokens."""
    return width * (bits / 8 + PAIR_BYTES / group)


def bits_per_element(bits: int, group: int) -> float:
    return bits + 8 * PAIR_BYTES / group


def attend_bytes(
    rows: int,
    heads: int,
    kv_heads: int,
    packed: int,
    rest: int,
    width: int,
    bits: int,
    group: int,
    item: int = 2,
) -> float:
    """Least traffic of one sequence and layer: ``packed`` and ``rest`` tokens once, queries in, result
    out."""
    stored = 2 * kv_heads * (packed * vector_bytes(width, bits, group) + rest * width * item)
    return stored + 2 * item * rows * heads * width


def attend_flops(rows: int, heads: int, length: int, width: int) -> int:
    return 4 * rows * heads * length * width
