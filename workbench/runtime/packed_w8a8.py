"""W8A8 where it can run, and its rounding emulated where it cannot."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from workbench.runtime.packed import Int8

#: Columns of activations that share a scale, as in the native products.
BLOCK = 64


class EmulatedW8A8(Int8):
    """int8 weights; activations are rounded to 8 bits and multiplied as 16-bit numbers."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight, bias)
        self.kernel = f"emulated W8A8: 8-bit activations by {BLOCK} columns, then {self.kernel}"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(rounded(x))


def rounded(x: torch.Tensor) -> torch.Tensor:
    """``x`` [..., K] on the grid of largest / 127 per block of columns, in its dtype."""
    columns = x.shape[-1]
    parts = F.pad(x.float(), (0, -columns % BLOCK)).unflatten(-1, (-1, BLOCK))
    step = (parts.abs().amax(-1, keepdim=True) / 127).clamp_(min=1e-30)
    return ((parts / step).round() * step).flatten(-2)[..., :columns].to(x.dtype)


def pack(weight: torch.Tensor, bias: torch.Tensor | None) -> Int8:
    """``weight`` [rows, columns] -> the module that runs here."""
    from workbench.kernels import native

    if weight.is_cuda or not native.available():
        return EmulatedW8A8(weight, bias)
    return Int8(weight, bias, "int8")
