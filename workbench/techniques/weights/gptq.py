"""GPTQ: rounding that is compensated on calibration text, at 2, 3, 4 or 8 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.techniques.base import Claim, Paper, control
from workbench.techniques.weights import Calibrated

if TYPE_CHECKING:
    from workbench.calibration.recipe import Recipe


@dataclass(frozen=True)
class Gptq(Calibrated):
    """Each column's rounding error is pushed onto the columns not yet rounded, as the layer's inputs on
    calibration text say; activations stay 16-bit.

    Made once per model and settings, layer by layer, and kept in the cache. 4 bits run in the int4
    kernels, 8 bits (one symmetric scale per row, no groups) in the int8 kernels, 2 and 3 bits in the
    native product over fields of bits, each stored at its size. Embedding and head stay as they are."""

    title = "GPTQ"
    paper = Paper("2210.17323", "Frantar et al. 2022", "algorithm 1; section 4")
    claim = Claim("perplexity 5.68 to 6.09 at 4 bits and 8.07 at 3 (WikiText-2), where rounding to nearest "
                  "has 6.29 and 25.54", setup="LLaMA-7B, one scale per row; 128 samples of 2048 tokens",
                  memory="0.28 of bfloat16 at 4 bits and groups of 64, 0.22 at 3 bits")
    bits: int = control(4, choices=(2, 3, 4, 8), unit="bits", help="bits per weight, scales not counted")
    group: int = control(64, choices=(0, 32, 64, 128), unit="columns",
                         help="columns that share a scale; 0: the whole row; must divide every matrix")
    symmetric: bool = control(False, help="no offset: the grid is centred on zero, same bytes")
    act_order: bool = control(True, help="round the columns with the largest inputs first; grids are "
                              "fitted before, so nothing is reordered when the model runs")
    clip: bool = control(True, help="search for smaller ranges that fit better (slower)")
    damp: float = control(0.01, 1e-6, 1.0, soft=(0.005, 0.1), help="share of the mean diagonal added to "
                          "the second moments; raised by itself where they cannot be inverted")
    sequential: bool = control(True, help="inside a layer, later matrices see the rounding of earlier ones")
    samples: int = control(128, 1, 4096, soft=(16, 512), help="windows of calibration text")
    length: int = control(512, 16, 8192, soft=(128, 2048), unit="tokens", help="tokens per window")
    text: str = control("bundled", help="bundled, or the path of a text file")

    def recipe(self) -> Recipe:
        from workbench.calibration.recipe import Recipe

        eight = self.bits == 8
        return Recipe(bits=self.bits, group=0 if eight else self.group, symmetric=eight or self.symmetric,
                      act_order=self.act_order, clip=self.clip, damp=self.damp, sequential=self.sequential,
                      samples=self.samples, length=self.length, text=self.text)
