"""float32 weights: twice the bytes of bfloat16, the reference for rounding errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.techniques.base import Claim, Paper
from workbench.techniques.weights import Weights

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Fp32(Weights):
    """32-bit floating point throughout: the exact reference, at twice the bytes of bfloat16.

    Weights, activations and the cache's compute dtype are all float32."""

    title = "float32 weights"
    paper = Paper("", "IEEE 754-2019")
    claim = Claim("rounding errors about 65 000 times smaller than bfloat16's")
    compute_dtype = "float32"

    def storage_bytes(self, rows: int, columns: int) -> int:
        return 4 * rows * columns

    def pack(self, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.nn.Module:
        import torch

        from workbench.runtime.packed import Dense

        return Dense(weight.to(torch.float32), None if bias is None else bias.to(torch.float32))
