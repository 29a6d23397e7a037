"""NormalFloat4: sixteen quantiles of a normal distribution, scales stored twice over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.techniques.base import Claim, Paper, control
from workbench.techniques.weights import Weights

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Nf4(Weights):
    """4 bits per weight whose levels are the quantiles of a normal, so that each is used about equally.

    A group's largest magnitude is stored in 8 bits, 256 of them under one float32 scale and mean: about
    0.13 bits per weight at groups of 64. The native product looks levels up as 8-bit integers (1/127 of
    the largest, 0.4 % off at most). Needs no calibration."""

    title = "NormalFloat4"
    paper = Paper("2305.14314", "Dettmers et al. 2023", "section 3 and appendix E (QLoRA)")
    claim = Claim("perplexity 27.41 with NF4 and double quantization, 31.07 with FP4 (E2M1), 34.34 with int4",
                  setup="mean over OPT, BLOOM, LLaMA and Pythia, 125M to 13B, Pile Common Crawl",
                  memory="4.13 bits per weight, 0.26 of bfloat16")
    lossless = False
    group: int = control(64, choices=(32, 64, 128), unit="columns", help="columns that share a scale")
    head: bool = control(False, help="pack the output head too (a tied one becomes an extra copy)")

    def packs_head(self) -> bool:
        return self.head

    def storage_bytes(self, rows: int, columns: int) -> int:
        from workbench.formats import layout

        return layout.normal_float(self.group).nbytes(rows, columns)

    def pack(self, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.nn.Module:
        from workbench.runtime import pack_formats

        return pack_formats.normal_float(weight, bias, self.group)
