"""Linear modules as the weight techniques make them: what is kept, and what multiplies by it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class Packed(nn.Module):
    """Base of all: ``forward(x [..., in_features]) -> [..., out_features]``.

    ``kernel`` says in words what multiplies; everything that is kept is a buffer or parameter, so
    ``nbytes`` is what the module holds, and moving or streaming its tensors moves all of it."""

    in_features: int
    out_features: int
    kernel: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers and parameters, as allocated."""
        return sum(t.numel() * t.element_size() for t in (*self.buffers(), *self.parameters()))

    def dequantize(self) -> torch.Tensor:
        """The matrix that is really multiplied by, [out_features, in_features] float32."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, kernel={self.kernel!r}"


class Dense(Packed):
    """An ordinary matrix in the compute dtype, multiplied by ``F.linear``."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        name = str(weight.dtype).removeprefix("torch.")
        self.kernel = f"{'cublas' if weight.is_cuda else 'F.linear'} {name}"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias)

    def dequantize(self) -> torch.Tensor:
        return self.weight.detach().float()
