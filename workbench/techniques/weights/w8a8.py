"""W8A8 with dynamic activation scales: both operands of every product in 8 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from workbench.techniques.base import Claim, Paper, control
from workbench.techniques.weights import Weights

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class W8a8(Weights):
    """int8 weights per output channel, activations rounded to 8 bits at every product, scales found on the
    way.

    The same as int8 with ``activations=int8``, under the name it is known by. Activations have a scale per
    row and 64 columns, finer than the paper's one per token, so outliers stay in their block. Without the
    native kernels the rounding is emulated."""

    title = "W8A8 dynamic"
    paper = Paper("2206.01861", "Yao et al. 2022", "section 4.1: token-wise activation scales, ZeroQuant")
    claim = Claim("W8A8 without training matches 16-bit accuracy, up to 5.2 times faster",
                  setup="BERT and GPT-3 style models",
                  memory="about 1/2 of bfloat16")
    lossless = False
    activations: ClassVar[str] = "int8"
    head: bool = control(False, help="pack the output head too (a tied one becomes an extra copy)")

    def packs_head(self) -> bool:
        return self.head

    def storage_bytes(self, rows: int, columns: int) -> int:
        from workbench.kernels.w8a16_gemm.cost import weight_bytes

        return weight_bytes(rows, columns)

    def pack(self, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.nn.Module:
        from workbench.runtime import packed_w8a8

        return packed_w8a8.pack(weight, bias)
