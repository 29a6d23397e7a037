"""int8 weights: half of bfloat16's bytes, one scale per output channel, rounded to nearest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.techniques.base import Claim, Paper, control
from workbench.techniques.weights import Weights

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Int8(Weights):
    """8-bit weights, one scale per output channel, rounded to nearest; activations stay 16-bit
    unless ``activations`` is int8.

    Needs no calibration. Every decoder matrix is packed; embedding and output head stay bfloat16
    unless ``head`` is set."""

    title = "int8 weights per channel"
    paper = Paper("2208.07339", "Dettmers et al. 2022", "section 2, vector-wise quantization")
    claim = Claim("no loss of accuracy for weights in 8 bits; half the memory",
                  setup="OPT and BLOOM up to 175B (there activations are 8-bit too, with outliers "
                        "kept in 16)", memory="about 1/2 of bfloat16")
    lossless = False
    activations: str = control("bf16", choices=("bf16", "int8"), help="int8: activations are rounded "
                               "too, by 64 columns, at every product (W8A8); faster with many rows")
    head: bool = control(False, help="pack the output head too (a tied one becomes an extra copy)")

    def packs_head(self) -> bool:
        return self.head

    def storage_bytes(self, rows: int, columns: int) -> int:
        from workbench.kernels.w8a16_gemm.cost import weight_bytes

        return weight_bytes(rows, columns)

    def pack(self, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.nn.Module:
        from workbench.runtime import packed

        return packed.Int8(weight, bias, self.activations)
