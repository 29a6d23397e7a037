"""Bytes and FLOPs of one [M, K] x [N, K]ᵀ product with weights in GGUF blocks."""

from __future__ import annotations

from workbench.kernels.gguf_blocks.reference import BLOCKS

PANEL = 16
#: Bytes of scales per 16 rows and block of columns as the native panels keep them (Q4_K: 8 bits each).
SCALES = {"Q8_0": 32, "Q4_0": 32, "Q4_K": 320}
#: Columns are padded to this.
COLUMNS = {"Q8_0": 32, "Q4_0": 32, "Q4_K": 256}


def file_bytes(n: int, k: int, form: str) -> int:
    """As a file stores it."""
    columns, size = BLOCKS[form]
    return n * (k // columns) * size


def weight_bytes(n: int, k: int, form: str) -> int:
    """As the native panels store it, rows padded to 16."""
    n, columns = -(-n // PANEL) * PANEL, COLUMNS[form]
    codes = n * k if form == "Q8_0" else n * k // 2
    return codes + n // PANEL * (k // columns) * SCALES[form]


def traffic_bytes(m: int, n: int, k: int, form: str, item: int = 2) -> int:
    """Least traffic: weights once, activations in, result out."""
    return weight_bytes(n, k, form) + item * (m * k + m * n)


def flops(m: int, n: int, k: int) -> int:
    return 2 * m * n * k
