"""Linear modules as the weight techniques make them: what is kept, and what multiplies by it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from workbench.errors import SettingsError


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


class Quantized(Packed):
    """What int8 and int4 share: panels for the native library, or torch's (CUDA: Triton's) layout.

    Which one is decided where the matrix is packed and kept for its life. ``native_weight`` is the C
    structure of ``kernels/native/linear.h`` for whoever calls the library itself, else None."""

    q: torch.Tensor
    native: bool
    kind: int
    group = 0

    def _hold(self, weight: torch.Tensor, bias: torch.Tensor | None, activations: str) -> None:
        from workbench.kernels import native

        self.out_features, self.in_features = weight.shape
        self.native = not weight.is_cuda and native.available()
        if activations != "bf16" and not self.native:
            raise SettingsError("8-bit activations need the native CPU kernels: "
                                + (native.why_not() or "the weights are on a GPU")
                                + "; set weights.activations=bf16")
        self.eight = activations != "bf16"
        dtype = torch.float32 if self.native else torch.bfloat16
        self.register_buffer("bias", None if bias is None else bias.to(torch.bfloat16).to(dtype))
        self._operator: Any = None
        if self.native:
            from workbench.kernels.native import ops

            self._operator = ops.operator(self.kind, int(self.eight))
            scheme = ops.NAMES[self.kind, int(self.eight)].removesuffix("_matmul").upper()
            self.kernel = f"native {type(self).__name__.lower()} {scheme} ({native.isa()})"

    def _fall_back(self, launch: Any, weight: torch.Tensor) -> None:
        """The kernels of torch or Triton, and why where the native ones were to be expected."""
        from workbench.kernels import native

        self._matmul, self.kernel = launch.matmul, launch.describe(weight.device)
        if not weight.is_cuda:
            self.kernel += f" ({native.why_not()})"

    def _scales(self) -> torch.Tensor:
        raise NotImplementedError

    @property
    def native_weight(self) -> Any:
        """A fresh structure of this moment's addresses; the module keeps what it points to."""
        if not self.native or self.q.is_meta:
            return None
        from workbench.kernels.native import ops

        return ops.describe(self.kind, int(self.eight), self.q, self._scales(), self.out_features,
                            self.in_features, self.group)

    def _multiply(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self._operator(x, self.q, self._scales(), self.bias, self.out_features,
                                         self.group)
        return y


class Int8(Quantized):
    """One byte per weight with one bfloat16 scale per output row."""

    scale: torch.Tensor
    kind = 1

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None,
                 activations: str = "bf16") -> None:
        from workbench.kernels.w8a16_gemm import launch

        super().__init__()
        self._hold(weight, bias, activations)
        q, scale = launch.quantize_and_pack(weight, self.native)
        self.register_buffer("q", q)
        self.register_buffer("scale", scale)
        if not self.native:
            self._fall_back(launch, weight)

    def _scales(self) -> torch.Tensor:
        return self.scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.native:
            return self._multiply(x)
        y = self._matmul(x.reshape(-1, self.in_features), self.q, self.scale)[:, :self.out_features]
        y = y if self.bias is None else y + self.bias
        return y.reshape(*x.shape[:-1], self.out_features)

    def dequantize(self) -> torch.Tensor:
        from workbench.kernels.native import panels

        q = panels.unpack_bytes(self.q) if self.native else self.q
        q = q[:self.out_features, :self.in_features]
        return q.float() * self.scale[:self.out_features].float()[:, None]


class Int4(Quantized):
    """4-bit weights with a bfloat16 scale and offset per group of columns."""

    pairs: torch.Tensor
    kind = 2

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, group: int,
                 symmetric: bool, activations: str = "bf16") -> None:
        from workbench.kernels.w4a16_gemm import launch

        super().__init__()
        self.group = group
        self._hold(weight, bias, activations)
        q, pairs = launch.quantize_and_pack(weight, group, symmetric, self.native)
        self.register_buffer("q", q)
        self.register_buffer("pairs", pairs)
        if not self.native:
            self._fall_back(launch, weight)
            self._dequantize = launch.dequantize

    def _scales(self) -> torch.Tensor:
        return self.pairs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.native:
            return self._multiply(x)
        y = self._matmul(x.reshape(-1, self.in_features), self.q, self.pairs)
        y = y[:, :self.out_features]
        y = y if self.bias is None else y + self.bias
        return y.reshape(*x.shape[:-1], self.out_features)

    def dequantize(self) -> torch.Tensor:
        from workbench.kernels.native import panels
        from workbench.kernels.w4a16_gemm import reference

        if self.native:
            whole = reference.dequantize(panels.unpack_nibbles(self.q),
                                         panels.unpack_scales(self.pairs))
        else:
            whole = self._dequantize(self.q, self.pairs)
        return whole[:self.out_features, :self.in_features]
