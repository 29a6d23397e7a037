"""Block floating point: short signed mantissas under one shared exponent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.techniques.base import Claim, Paper, control
from workbench.techniques.weights import Weights

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Bfp(Weights):
    """Integers of ``mantissa`` bits times a power of two per block: products are integer sums and one shift.

    BFP12 is 4 bits with an 8-bit exponent. One outlier costs its whole block; where channels can be
    reordered (keys and queries), sorting by norm puts outliers together (formats/bfp.py)."""

    title = "Block floating point"
    paper = Paper("2403.20137", "Trukhanov and Soloveychik 2024", "sections 2 and 4")
    claim = Claim("with sorted key channels, a key cache of 4-bit mantissas in blocks of 32 and 64 has half "
                  "the size at little loss", setup="Llama-2-7B, WikiText-2",
                  memory="mantissa / 16 + 1 / (2 block) "
                  "of bfloat16")
    lossless = False
    mantissa: int = control(4, choices=(3, 4, 6, 8), unit="bits", help="bits per weight with the sign")
    block: int = control(32, choices=(32, 64, 128), unit="columns", help="columns that share an exponent")
    activations: str = control("bf16", choices=("bf16", "int8"), help="int8: activations are rounded too, by "
                               "block, at every product")
    head: bool = control(False, help="pack the output head too (a tied one becomes an extra copy)")

    def packs_head(self) -> bool:
        return self.head

    def storage_bytes(self, rows: int, columns: int) -> int:
        from workbench.formats import layout

        return layout.block_float(self.mantissa, self.block).nbytes(rows, columns)

    def pack(self, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.nn.Module:
        from workbench.runtime import pack_formats

        return pack_formats.block_float(weight, bias, self.mantissa, self.block, self.activations)
