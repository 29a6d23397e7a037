"""Bipolar integers: every bit is plus or minus its power of two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.techniques.base import Claim, Paper, control
from workbench.techniques.weights import Weights

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Bipolar(Weights):
    """The odd integers of 1 to 8 bits, symmetric, without zero: 2, 3, 4 ... bits need no offset, and one bit
    is a sign times the mean magnitude.

    Products here read the codes as integers; as sums of one-bit products they are exact, too
    (formats/bipolar.py), which pays only where the hardware counts bits."""

    title = "Bipolar integers"
    paper = Paper("2409.17870", "Ma et al. 2024", "section 3")
    claim = Claim("2.4 times CUTLASS for products at low widths, 6.7 times for inference over fp16",
                  setup="weights and activations in few bits, RTX 3090", memory="(bits + 16 / group) / 16 of "
                  "bfloat16")
    lossless = False
    bits: int = control(3, choices=(1, 2, 3, 4, 5, 6, 7, 8), unit="bits", help="bits per weight")
    group: int = control(64, choices=(32, 64, 128), unit="columns", help="columns that share a scale")
    activations: str = control("bf16", choices=("bf16", "int8"), help="int8: activations are rounded too, by "
                               "block, at every product")
    head: bool = control(False, help="pack the output head too (a tied one becomes an extra copy)")

    def packs_head(self) -> bool:
        return self.head

    def storage_bytes(self, rows: int, columns: int) -> int:
        from workbench.formats import layout

        return layout.bipolar(self.bits, self.group).nbytes(rows, columns)

    def pack(self, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.nn.Module:
        from workbench.runtime import pack_formats

        return pack_formats.bipolar(weight, bias, self.bits, self.group, self.activations)
