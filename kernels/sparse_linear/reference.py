"""The definition: the matrix with its zeros filled in, multiplied in float64."""

from __future__ import annotations

import torch

from workbench.kernels.sparse_linear.packing import unpack


def matmul(x: torch.Tensor, values: torch.Tensor, index: torch.Tensor, rows: int,
           bias: torch.Tensor | None = None) -> torch.Tensor:
    """``x`` [M, K] -> float64 [M, rows]."""
    y = x.double() @ unpack(values, index, rows, x.shape[-1]).double().T
    return y if bias is None else y + bias.double()
