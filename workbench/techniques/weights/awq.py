"""AWQ: channels with large activations are given more of the grid before the weights are rounded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.techniques.base import Claim, Paper, control
from workbench.techniques.weights import Calibrated

if TYPE_CHECKING:
    from workbench.calibration.recipe import Recipe


@dataclass(frozen=True)
class Awq(Calibrated):
    """Input channels are scaled by a power of their mean activation, found by a search per group of
    matrices; the inverse goes exactly into what comes before.

    Then rounding to nearest, or GPTQ. For Llama-shaped models. Made once per model and settings and kept
    in the cache; 4 bits run in the int4 kernels, 2 and 3 bits in the native product over fields of bits,
    stored at their size."""

    title = "AWQ: activation-aware scaling"
    paper = Paper("2306.00978", "Lin et al. 2023", "section 3.2")
    claim = Claim("perplexity 5.47 to 5.60 at 4 bits and 6.24 at 3 (WikiText-2), where rounding to nearest "
                  "has 5.73 and 6.66", setup="LLaMA-2-7B, groups of 128",
                  memory="0.28 of bfloat16 at 4 bits and groups of 64, 0.22 at 3 bits")
    bits: int = control(4, choices=(2, 3, 4), unit="bits", help="bits per weight, scales not counted")
    group: int = control(64, choices=(0, 32, 64, 128), unit="columns",
                         help="columns that share a scale; 0: the whole row; must divide every matrix")
    symmetric: bool = control(False, help="no offset: the grid is centred on zero, same bytes")
    rounding: str = control("nearest", choices=("nearest", "gptq"), help="how the scaled weights are rounded")
    clip: bool = control(True, help="search for smaller ranges that fit better (slower)")
    samples: int = control(128, 1, 4096, soft=(16, 512), help="windows of calibration text")
    length: int = control(512, 16, 8192, soft=(128, 2048), unit="tokens", help="tokens per window")
    text: str = control("bundled", help="bundled, or the path of a text file")

    def recipe(self) -> Recipe:
        from workbench.calibration.recipe import Recipe

        return Recipe(bits=self.bits, group=self.group, symmetric=self.symmetric, rounding=self.rounding,
                      scaling=True, clip=self.clip, sequential=self.rounding == "gptq",
                      samples=self.samples, length=self.length, text=self.text)
