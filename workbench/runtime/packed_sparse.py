"""Linear modules with a sparse matrix: a bit per place, and the numbers that were kept."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from workbench.runtime.packed import Packed


class Sparse(Packed):
    """``values`` bfloat16 and ``index`` int32 as ``kernels.sparse_linear.packing`` makes them.

    On a CPU with the native library the zeros are filled in inside the cache, so memory is read at the
    packed size; elsewhere the whole matrix is expanded at every product, which ``kernel`` says."""

    values: torch.Tensor
    index: torch.Tensor

    def __init__(self, values: torch.Tensor, index: torch.Tensor, bias: torch.Tensor | None,
                 shape: tuple[int, int]) -> None:
        from workbench.kernels import native
        from workbench.kernels.sparse_linear.layout import TAIL

        super().__init__()
        self.out_features, self.in_features = shape
        self.native = not values.is_cuda and native.available()
        dtype = torch.float32 if self.native else torch.bfloat16
        self.register_buffer("values", values)
        self.register_buffer("index", index)
        self.register_buffer("bias", None if bias is None else bias.to(torch.bfloat16).to(dtype))
        self.sparsity = 1 - (values.numel() - TAIL) / (shape[0] * shape[1])
        self.kernel = f"sparse bfloat16, {self.sparsity:.0%} zeros, "
        self._operator: Any = None
        if self.native:
            from workbench.kernels.sparse_linear.native import operator

            self._operator = operator()
            self.kernel += f"bits and numbers, native ({native.isa()})"
        else:
            why = "" if values.is_cuda else f" ({native.why_not()})"
            self.kernel += f"expanded whole at every product{why}"

    @property
    def native_weight(self) -> Any:
        """The C structure at this moment's addresses; the module keeps what it points to."""
        if not self.native or self.values.is_meta:
            return None
        from workbench.kernels.sparse_linear.native import describe

        return describe(self.values, self.index, self.out_features, self.in_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self._operator is not None:
            y: torch.Tensor = self._operator(x, self.values, self.index, self.bias, self.out_features)
            return y
        return F.linear(x, self._whole().to(x.dtype), self.bias)

    def _whole(self) -> torch.Tensor:
        from workbench.kernels.sparse_linear.packing import unpack

        return unpack(self.values, self.index, self.out_features, self.in_features)

    def dequantize(self) -> torch.Tensor:
        return self._whole().float()


def from_matrix(weight: torch.Tensor, kept: torch.Tensor, bias: torch.Tensor | None) -> Sparse:
    """``weight`` [rows, columns] with the places ``kept`` (bool) stored, on the weight's device."""
    from workbench.kernels.sparse_linear.packing import pack

    values, index = pack(weight, kept)
    return Sparse(values, index, bias, (weight.shape[0], weight.shape[1]))
