"""The CPU kernel as functions of tensors, and as the torch operator ``workbench::sparse_matmul``."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch

from workbench.kernels import native
from workbench.kernels.native import abi, linear

KIND = 3  # WB_SPARSE


def describe(values: torch.Tensor, index: torch.Tensor, rows: int, columns: int) -> abi.Weight:
    """The C structure over tensors that :func:`packing.pack` made, used where they lie."""
    return abi.Weight.over((values, index), kind=KIND, rows=rows, columns=columns, padded=columns,
                           data=values.data_ptr(), scales=index.data_ptr())


def matmul(x: torch.Tensor, values: torch.Tensor, index: torch.Tensor, rows: int,
           bias: torch.Tensor | None = None, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """``x`` [M, K] bfloat16 -> [M, rows]; ``bias`` float32. Raises RuntimeError without the library."""
    return linear.matmul(x, describe(values, index, rows, x.shape[-1]), bias, dtype)


def expand(values: torch.Tensor, index: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The matrix with its zeros, bfloat16 [rows, columns]. Raises RuntimeError without the library."""
    out = torch.empty(rows, columns, dtype=torch.bfloat16)
    weight = describe(values, index, rows, columns)
    native.library().wb_sparse_expand(ctypes.byref(weight), 0, rows, ctypes.c_void_p(out.data_ptr()))
    return out


@functools.cache
def operator() -> Any:
    """``sparse_matmul(x [..., K], values, index, bias, rows) -> [..., rows]`` bfloat16, for profilers."""
    held = torch.library.Library("workbench", "FRAGMENT")
    held.define("sparse_matmul(Tensor x, Tensor values, Tensor index, Tensor? bias, int rows) -> Tensor")
    held.impl("sparse_matmul", _product, "CPU")
    _HELD.append(held)
    return torch.ops.workbench.sparse_matmul.default


_HELD: list[Any] = []  # a library ends with its object


def _product(x: torch.Tensor, values: torch.Tensor, index: torch.Tensor, bias: torch.Tensor | None,
             rows: int) -> torch.Tensor:
    y = matmul(x.reshape(-1, x.shape[-1]), values, index, rows, bias)
    return y.view(*x.shape[:-1], rows)
