"""``wb_linear`` as a function of tensors. The decoder calls the same C function without this."""

from __future__ import annotations

import ctypes

import torch

from workbench.kernels import native
from workbench.kernels.native import abi


def dense(weight: torch.Tensor) -> abi.Weight:
    """A row-major bfloat16 matrix [N, K], used where it lies."""
    if weight.dtype != torch.bfloat16 or not weight.is_contiguous() or weight.dim() != 2:
        raise ValueError("a dense native weight is a contiguous bfloat16 matrix")
    n, k = weight.shape
    return abi.Weight.over((weight,), kind=abi.BF16, rows=n, columns=k, padded=k,
                           data=weight.data_ptr())


def nibbles(q: torch.Tensor, scales: torch.Tensor, rows: int, columns: int, group: int,
            scale: int = abi.SCALE_PAIR, activations: int = abi.A16) -> abi.Weight:
    """4-bit panels [Np / 16, Kp * 8] and their scales, used where they lie."""
    return abi.Weight.over(
        (q, scales), kind=abi.INT4, scale=scale, activations=activations, rows=rows, columns=columns,
        padded=q.shape[1] // 8, group=group, data=q.data_ptr(), scales=scales.data_ptr())


def octets(q: torch.Tensor, scales: torch.Tensor, rows: int, columns: int, group: int = 0,
           scale: int = abi.SCALE_ROW, activations: int = abi.A16) -> abi.Weight:
    """8-bit panels [Np / 16, Kp * 16] and their scales; ``group`` 0 is the whole row."""
    padded = q.shape[1] // 16
    return abi.Weight.over(
        (q, scales), kind=abi.INT8, scale=scale, activations=activations, rows=rows, columns=columns,
        padded=padded, group=group or padded, data=q.data_ptr(), scales=scales.data_ptr())


def fields(q: torch.Tensor, scales: torch.Tensor, rows: int, columns: int, group: int, bits: int, scale: int,
           unit: float = 1.0, middle: float = 0.0, levels: torch.Tensor | None = None,
           activations: int = abi.A16) -> abi.Weight:
    """Codes of ``bits`` bits in the panels of ``fields.py``, used where they lie. ``levels`` uint8 [16]."""
    return abi.Weight.over(
        (q, scales, levels), kind=abi.FIELDS, scale=scale, activations=activations, rows=rows,
        columns=columns, padded=q.shape[1] // (2 * bits), group=group, bits=bits, data=q.data_ptr(),
        scales=scales.data_ptr(), levels=0 if levels is None else levels.data_ptr(), unit=unit,
        middle=middle)


def float8(q: torch.Tensor, scales: torch.Tensor, rows: int, columns: int, group: int, kind: int, scale: int,
           unit: float = 1.0) -> abi.Weight:
    """8-bit floats (``kind`` E4M3 or E5M2) in the panels of ``fields.py``; ``group`` 0 is the whole row."""
    padded = q.shape[1] // 16
    return abi.Weight.over(
        (q, scales), kind=kind, scale=scale, rows=rows, columns=columns, padded=padded,
        group=group or padded, bits=8, data=q.data_ptr(), scales=scales.data_ptr(), unit=unit)


def matmul(x: torch.Tensor, weight: abi.Weight, bias: torch.Tensor | None = None,
           dtype: torch.dtype = torch.bfloat16, prompt: bool = False) -> torch.Tensor:
    """``x`` [M, K] bfloat16 -> [M, N] in ``dtype`` (bfloat16 or float32); ``bias`` float32 [N].
    ``prompt``: the rows are a prompt's; see ``linear.h``.

    Runs on ``torch.get_num_threads()`` threads. Raises RuntimeError without the library."""
    library = native.library()
    m, k = x.shape
    if x.dtype != torch.bfloat16 or k != weight.columns:
        raise ValueError(f"a native product takes bfloat16 [M, {weight.columns}], not {x.dtype} [M, {k}]")
    y = torch.empty(m, weight.rows, dtype=dtype)
    if m == 0:
        return y
    x = x.contiguous()
    product = abi.Product(ctypes.pointer(weight), None if bias is None else bias.data_ptr(), y.data_ptr(),
                          int(dtype == torch.bfloat16), int(prompt))
    library.wb_set_threads(torch.get_num_threads())
    if library.wb_linear(product, 1, x.data_ptr(), m):
        raise RuntimeError("the native library does not know this stored weight")
    return y
