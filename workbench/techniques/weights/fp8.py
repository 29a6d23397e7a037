"""8-bit floats: E4M3 or E5M2, with a scale per row or a power of two per block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.techniques.base import Claim, Paper, control
from workbench.techniques.weights import Weights

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Fp8(Weights):
    """One byte per weight with an exponent of its own: relative precision instead of absolute.

    ``row``: a bfloat16 scale per output row. ``block``: MXFP8, a power of two per 32 columns. No CPU
    multiplies in 8-bit floats: weights are read at one byte and expanded to float32 in registers, which is
    slower than integers when rows are many."""

    title = "8-bit floats"
    paper = Paper("2209.05433", "Micikevicius et al. 2022", "sections 3 and 4: E4M3 and E5M2")
    claim = Claim("E4M3 inference matches 16-bit results", setup="translation and GPT models to 175B, "
                  "weights and activations", memory="about 1/2 of bfloat16")
    lossless = False
    element: str = control("e4m3", choices=("e4m3", "e5m2"), help="e4m3 is finer, e5m2 reaches further")
    scale: str = control("row", choices=("row", "block"), help="row: bfloat16; block: a power of two per 32 "
                         "columns (MXFP8)")
    head: bool = control(False, help="pack the output head too (a tied one becomes an extra copy)")

    def packs_head(self) -> bool:
        return self.head

    def _block(self) -> int:
        return 32 if self.scale == "block" else 0

    def storage_bytes(self, rows: int, columns: int) -> int:
        from workbench.formats import layout

        return layout.float8(self.element, self._block()).nbytes(rows, columns)

    def pack(self, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.nn.Module:
        from workbench.runtime import pack_formats

        return pack_formats.float8(weight, bias, self.element, self._block())
