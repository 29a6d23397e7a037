"""A dense matrix as (values, index) and back; ``WB_SPARSE`` of ``kernels/native/linear.h``. Torch only."""

from __future__ import annotations

import torch

from workbench.kernels.sparse_linear.layout import TAIL, WORD


def pack(weight: torch.Tensor, kept: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """``weight`` [N, K] -> (bfloat16 [kept + 32], int32 [N + 1 + N * ceil(K / 32)]).

    ``kept`` bool [N, K]: the places that are stored, by default those whose bfloat16 is not zero.
    Raises ValueError above 2^31 - 1 of them."""
    w = weight.detach().to(torch.bfloat16).contiguous()
    kept = w != 0 if kept is None else kept
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
    padded = torch.zeros(n, words * WORD, dtype=torch.uint8, device=kept.device)
    padded[:, :k] = kept
    eights = padded.view(-1, 8)
    packed = torch.zeros(n * words * 4, dtype=torch.uint8, device=kept.device)
    for bit in range(8):
        packed |= eights[:, bit] << bit
    return packed.view(torch.int32)


def places(index: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """bool [rows, columns]: what is stored."""
    words = -(-columns // WORD)
    eights = index[rows + 1:].clone().view(torch.uint8)
    bits = torch.stack([(eights >> bit) & 1 for bit in range(8)], -1)
    return bits.view(rows, words * WORD)[:, :columns].bool()


def unpack(values: torch.Tensor, index: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Inverse of :func:`pack`: bfloat16 [rows, columns]."""
    out = torch.zeros(rows, columns, dtype=torch.bfloat16, device=values.device)
    out[places(index, rows, columns)] = values[:values.numel() - TAIL]
    return out
