"""int4 weights in groups: a quarter of bfloat16's bytes, rounded to nearest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.techniques.base import Claim, Paper, control
from workbench.techniques.weights import Weights

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Int4(Weights):
    """4-bit weights in groups along each row, rounded to nearest; activations stay 16-bit
    unless ``activations`` is int8.

    Each group has a bfloat16 scale and offset: 4 + 32 / group bits per weight. Columns that do not
    fill the last group and rows that do not fill a tile of 16 are padded (counted in the bytes).
    Needs no calibration. Embedding and output head stay bfloat16 unless ``head`` is set."""

    title = "int4 weights in groups"
    paper = Paper("2210.17323", "Frantar et al. 2022", "RTN baseline of section 4; grouping")
    claim = Claim("perplexity 5.68 to 6.29 (WikiText-2), GPTQ 5.85 with the same bits",
                  setup="LLaMA-7B, 4 bits per row without groups, round to nearest",
                  memory="about 0.28 of bfloat16 at group 64")
    lossless = False
    group: int = control(64, choices=(32, 64, 128), unit="columns",
                         help="columns that share a scale; smaller is more accurate and larger")
    symmetric: bool = control(False, help="no offset: the grid is centred on zero, same bytes")
    activations: str = control("bf16", choices=("bf16", "int8"), help="int8: activations are rounded "
                               "too, by group, at every product (W4A8); faster with many rows")
    head: bool = control(False, help="pack the output head too (a tied one becomes an extra copy)")

    def packs_head(self) -> bool:
        return self.head

    def storage_bytes(self, rows: int, columns: int) -> int:
        from workbench.kernels.w4a16_gemm.cost import weight_bytes

        return weight_bytes(rows, columns, self.group)

    def pack(self, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.nn.Module:
        from workbench.runtime import packed

        return packed.Int4(weight, bias, self.group, self.symmetric, self.activations)
