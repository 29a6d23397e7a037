"""Bytes and FLOPs of y = x W^T with a sparse W [N, K]."""

from __future__ import annotations

from workbench.kernels.sparse_linear.layout import TAIL, WORD


def weight_bytes(rows: int, columns: int, nonzeros: int) -> int:
    """Bytes of one packed matrix, as allocated: 2 a number kept, 1 bit a place, 4 a row."""
    return 2 * (nonzeros + TAIL) + 4 * (rows + 1 + rows * -(-columns // WORD))


def traffic_bytes(m: int, rows: int, columns: int, nonzeros: int, item: int = 2) -> int:
    """Least traffic: the packed matrix once, x in, y out."""
    return weight_bytes(rows, columns, nonzeros) + item * m * (rows + columns)


def flops(m: int, nonzeros: int) -> int:
    """A product and a sum per number kept; the kernel multiplies the zeros too, in the cache."""
    return 2 * m * nonzeros
