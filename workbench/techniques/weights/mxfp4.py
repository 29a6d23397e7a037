"""MXFP4: E2M1 numbers under a power of two per 32 columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.techniques.base import Claim, Paper, control
from workbench.techniques.weights import Weights

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Mxfp4(Weights):
    """The OCP microscaling format: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives, one byte of exponent per
    block; 4.25 bits per weight at 32.

    Powers of two waste up to half of the range, which costs about 2 dB against a scale with a mantissa.
    Codes and scales are those of the standard; products look levels up as exact integers."""

    title = "MXFP4"
    paper = Paper("2310.10537", "Rouhani et al. 2023", "sections 2 and 3; OCP MX 1.0, sections 5 and 6")
    claim = Claim("direct cast to MXFP6 loses little and MXFP4 needs fine-tuning or error compensation",
                  setup="language, vision and recommendation models", memory="4.25 bits per weight, 0.27 of "
                  "bfloat16")
    lossless = False
    block: int = control(32, choices=(16, 32, 64), unit="columns", help="columns that share a scale; the "
                         "standard has 32")
    head: bool = control(False, help="pack the output head too (a tied one becomes an extra copy)")

    def packs_head(self) -> bool:
        return self.head

    def storage_bytes(self, rows: int, columns: int) -> int:
        from workbench.formats import layout

        return layout.float4(self.block, "e8m0").nbytes(rows, columns)

    def pack(self, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.nn.Module:
        from workbench.formats.scales import Rule
        from workbench.runtime import pack_formats

        return pack_formats.float4(weight, bias, "mxfp4", self.block, Rule("e8m0"))
