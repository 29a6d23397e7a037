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
    bias: torch.Tensor | None

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


class Int8(Packed):
    """int8 [N, Kp] with one bfloat16 scale per output row."""

    q: torch.Tensor
    scale: torch.Tensor

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        from workbench.kernels.w8a16_gemm import launch

        super().__init__()
        self.out_features, self.in_features = weight.shape
        q, scale = launch.quantize_and_pack(weight)
        self.register_buffer("q", q)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if bias is None else bias.to(torch.bfloat16))
        self._matmul, self.kernel = launch.matmul, launch.describe(weight.device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self._matmul(x.reshape(-1, self.in_features), self.q, self.scale)
        y = y if self.bias is None else y + self.bias
        return y.view(*x.shape[:-1], self.out_features)

    def dequantize(self) -> torch.Tensor:
        return self.q[:, :self.in_features].float() * self.scale.float()[:, None]


class Int4(Packed):
    """4-bit [Np, Kp / 2] bytes with a bfloat16 scale and offset per group of columns."""

    q: torch.Tensor
    pairs: torch.Tensor

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, group: int,
                 symmetric: bool) -> None:
        from workbench.kernels.w4a16_gemm import launch

        super().__init__()
        self.out_features, self.in_features = weight.shape
        q, pairs = launch.quantize_and_pack(weight, group, symmetric)
        self.register_buffer("q", q)
        self.register_buffer("pairs", pairs)
        self.register_buffer("bias", None if bias is None else bias.to(torch.bfloat16))
        self._matmul, self._dequantize = launch.matmul, launch.dequantize
        self.kernel = launch.describe(weight.device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self._matmul(x.reshape(-1, self.in_features), self.q, self.pairs)
        y = y[:, :self.out_features]
        y = y if self.bias is None else y + self.bias
        return y.reshape(*x.shape[:-1], self.out_features)

    def dequantize(self) -> torch.Tensor:
        return self._dequantize(self.q, self.pairs)[:self.out_features, :self.in_features]
