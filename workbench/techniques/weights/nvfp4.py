"""NVFP4 and its relative with UE5M3 scales: E2M1 numbers under an 8-bit float per 16 columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.techniques.base import Claim, Paper, control
from workbench.techniques.weights import Weights

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Nvfp4(Weights):
    """E2M1 with block scales that have a mantissa: 4.5 bits per weight at blocks of 16.

    ``e4m3`` scales need a float32 scale of the whole matrix, because their range is short; ``ue5m3`` spends
    the unused sign on the exponent and needs none. Products look levels up as exact integers."""

    title = "NVFP4"
    paper = Paper("2509.17791", "Hu et al. 2025", "block scales E4M3 and UE5M3; section 3")
    claim = Claim("UE5M3 scales reach the accuracy of E4M3 with a tensor scale, without one",
                  setup="FP4 training, emulated, models up to 1B", memory="4.5 bits per weight, 0.28 of "
                  "bfloat16")
    lossless = False
    scale: str = control("e4m3", choices=("e4m3", "ue5m3"), help="how a block's scale is stored")
    block: int = control(16, choices=(16, 32, 64), unit="columns", help="columns that share a scale; the "
                         "hardware's format has 16")
    head: bool = control(False, help="pack the output head too (a tied one becomes an extra copy)")

    def packs_head(self) -> bool:
        return self.head

    def storage_bytes(self, rows: int, columns: int) -> int:
        from workbench.formats import layout

        return layout.float4(self.block, self.scale).nbytes(rows, columns)

    def pack(self, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.nn.Module:
        from workbench.formats.scales import Rule
        from workbench.runtime import pack_formats

        return pack_formats.float4(weight, bias, f"fp4 with {self.scale} scales", self.block,
                                   Rule(self.scale, tensor=self.scale == "e4m3"))
