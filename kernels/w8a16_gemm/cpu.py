"""CPU: torch's fused kernel for few rows, blocked dequantization and a matrix product for many.

The fused kernel reads one byte per weight but multiplies in vector registers; the bfloat16 matrix
product uses the matrix unit where there is one. See ``FUSED_ROWS`` for where they cross.
"""

from __future__ import annotations

import functools

import torch
from torch.nn import functional as F

#: Up to this many rows the fused kernel is faster. Measured on a Xeon with AMX (one thread, torch
#: 2.13; benchmarks/kernels): at 1024x384, m = 8, 16, 24, 32, 128: fused 102, 194, 292, 384, 1525 us,
#: blocked 217, 227, 256, 272, 364 us, bfloat16 90, 91, 108, 117, 168 us. They cross at 20; the limit is
#: higher because the fused kernel computes a row to the same bits however many rows there are, so a
#: verified draft of up to 39 tokens gives exactly the tokens of plain decoding.
FUSED_ROWS = 40
#: Columns are padded to this, see :func:`pack`.
COLUMN_TILE = 16
#: Weights dequantized at a time: 2 MiB of bfloat16 stay in the second-level cache.
BLOCK = 1 << 20


@functools.cache
def has_matrix_unit() -> bool:
    """Whether bfloat16 products run on oneDNN here (else the fused kernel wins at any size)."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pack(q: torch.Tensor) -> torch.Tensor:
    """int8 [N, K] -> int8 [N, Kp], zeros on the right to whole vectors.

    torch's kernel loads 16 columns at a time and reads outside a matrix whose width is no multiple
    of 16 (wrong sums or a crash, torch 2.13), so the padding is stored."""
    return F.pad(q, (0, -q.shape[1] % COLUMN_TILE)).contiguous()


def fused(x: torch.Tensor, q: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """``x`` [M, Kp], ``q`` [N, Kp] in one pass over the bytes."""
    return torch._weight_int8pack_mm(x, q, scale)


def matmul(x: torch.Tensor, q: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """``x`` [M, Kp] bfloat16, ``q`` int8 [N, Kp], ``scale`` bfloat16 [N] -> [M, N] bfloat16."""
    if x.shape[0] <= FUSED_ROWS or not has_matrix_unit():
        return fused(x, q, scale)
    return blocked(x, q, scale)


def blocked(x: torch.Tensor, q: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """A block of rows of W at a time to the dtype of ``x`` (exact), multiplied, scaled once."""
    n, k = q.shape
    rows = max(1, BLOCK // k)
    out = x.new_empty(x.shape[0], n)
    for start in range(0, n, rows):
        part = F.linear(x, q[start:start + rows].to(x.dtype))
        torch.mul(part, scale[start:start + rows], out=out[:, start:start + rows])
    return out
