"""Integers of any width in groups, rounded to nearest: 2 to 8 bits, each stored at its size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.techniques.base import Claim, Paper, control
from workbench.techniques.weights import Weights

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Rtn(Weights):
    """2 to 8 bits per weight in groups along each row, rounded to nearest; activations stay 16-bit unless
    ``activations`` is int8.

    Codes are stored as fields of 4, 2 and 1 bits, so that 3 bits take 3, and one native product reads all
    widths. Each group has a bfloat16 scale and offset: 32 / group bits per weight more. Needs no
    calibration; below 4 bits expect real loss."""

    title = "Integers of any width"
    paper = Paper("2504.12984", "Ding et al. 2025", "sections 3 and 7: weights of 1 to 8 bits taken apart "
                                                    "after plain byte loads")
    claim = Claim("1.75 times Triton's speed over widths of 1 to 8 bits", setup="Tilus, operators on GPUs of "
                  "the Ampere to Hopper generations", memory="bits / 16 + 2 / group of bfloat16")
    lossless = False
    bits: int = control(3, choices=(2, 3, 4, 5, 6, 7, 8), unit="bits", help="bits per weight, scales not "
                        "counted")
    group: int = control(64, choices=(32, 64, 128), unit="columns",
                         help="columns that share a scale; smaller is more accurate and larger")
    activations: str = control("bf16", choices=("bf16", "int8"), help="int8: activations are rounded too, by "
                               "block, at every product; faster with many rows")
    head: bool = control(False, help="pack the output head too (a tied one becomes an extra copy)")

    def packs_head(self) -> bool:
        return self.head

    def storage_bytes(self, rows: int, columns: int) -> int:
        from workbench.formats import layout

        return layout.integers(self.bits, self.group).nbytes(rows, columns)

    def pack(self, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.nn.Module:
        from workbench.runtime import pack_formats

        return pack_formats.integers(weight, bias, self.bits, self.group, self.activations)
