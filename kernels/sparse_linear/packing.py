"""A dense matrix as (values, index) and back; ``WB_SPARSE`` of ``kernels/native/linear.h``. Torch only."""

from __future__ import annotations

import torch

from workbench.kernels.sparse_linear.layout import TAIL, WORD


def pack(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``weight`` [N, K] -> (bfloat16 [nonzeros + 32], int32 [N + 1 + N * ceil(K / 32)]).

    A number is kept when its bfloat16 is not zero. Raises ValueError above 2^31 - 1 kept numbers."""
    w = weight.detach().to(torch.bfloat16).contiguous()
    kept = w != 0
    counts = kept.sum(1, dtype=torch.int64)
    starts = torch.cat((counts.new_zeros(1), counts.cumsum(0)))
    if int(starts[-1]) >= 2**31:
        raise ValueError("a sparse matrix holds at most 2^31 - 1 numbers that are not zero")
    values = torch.cat((w[kept], w.new_zeros(TAIL)))
    return values, torch.cat((starts.to(torch.int32), _words(kept)))


def _words(kept: torch.Tensor) -> torch.Tensor:
    """bool [N, K] -> int32 [N * ceil(K / 32)], bit c of a word for its column c."""
    n, k = kept.shape
    words = -(-k // WORD)
    padded = torch.zeros(n, words * WORD, dtype=torch.uint8)
    padded[:, :k] = kept
    bytes_ = torch.zeros(n * words * 4, dtype=torch.uint8)
    eights = padded.view(-1, 8)
    for bit in range(8):
        bytes_ |= eights[:, bit] << bit
    return bytes_.view(torch.int32)


def unpack(values: torch.Tensor, index: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Inverse of :func:`pack`: bfloat16 [rows, columns]."""
    words = -(-columns // WORD)
    bytes_ = index[rows + 1:].contiguous().view(torch.uint8)
    bits = torch.stack([(bytes_ >> bit) & 1 for bit in range(8)], -1)
    kept = bits.view(rows, words * WORD)[:, :columns].bool()
    out = torch.zeros(rows, columns, dtype=torch.bfloat16)
    out[kept] = values[:values.numel() - TAIL]
    return out
