"""Linear modules whose products are L-Mul's, emulated by ordinary products of split operands."""

from __future__ import annotations

import torch

from workbench.errors import ModelError
from workbench.formats import lmul
from workbench.runtime.packed import Packed


class LMul(Packed):
    """``weight`` [out_features, in_features] bfloat16 with ``mantissa`` bits of fraction left.

    No processor adds instead of multiplying, so the speed seen is the emulation's."""

    weight: torch.Tensor

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, mantissa: int, variant: str) -> None:
        if not torch.isfinite(weight).all():
            raise ModelError("a weight is not finite, so there is no L-Mul of it; check the checkpoint")
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.mantissa, self.variant = mantissa, variant
        self.register_buffer("weight", lmul.shorten(weight, mantissa).to(torch.bfloat16))
        self.register_buffer("bias", None if bias is None else bias.to(torch.bfloat16))
        saved = lmul.energy_saved("fp16 multiply", "int32 add")
        self.kernel = (f"L-Mul by its {variant}, {mantissa} mantissa bits, emulated in float32 (an addition "
                       f"takes {saved:.0%} less energy than a 16-bit multiplication: estimated, circuits at "
                       "45 nm, moving data not counted)")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.in_features)
        y = lmul.products(flat, self.weight, self.mantissa, self.variant)
        y = y if self.bias is None else y + self.bias.float()
        return y.to(x.dtype).view(*x.shape[:-1], self.out_features)

    def dequantize(self) -> torch.Tensor:
        """The operands; what is done with them is no multiplication."""
        return self.weight.float()
