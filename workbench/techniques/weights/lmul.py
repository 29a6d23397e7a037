"""L-Mul: every product of a linear layer replaced by one integer addition, emulated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from workbench.techniques.base import Claim, Paper, control
from workbench.techniques.weights import Weights

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Lmul(Weights):
    """Products become additions of exponents and fractions. No processor does that: emulated, and slower.

    Shows what the approximation does to quality; the energy it would save is an estimate, and the weights
    stay 16 bits. Attention keeps its multiplications. ``formula`` is the paper's equation; ``adder`` is what
    an adder of bit patterns gives, which carries into the exponent and is more exact."""

    title = "L-Mul: additions for products (emulated)"
    paper = Paper("2410.00907", "Luo and Sun 2024", "section 2.2")
    claim = Claim("up to 95 % less energy per element-wise product, 80 % per dot product",
                  setup="estimated from circuits; no hardware has it", memory="as bfloat16")
    lossless = False
    exact_products: ClassVar[bool] = False
    mantissa: int = control(4, choices=(2, 3, 4, 7), unit="bits", help="fraction bits of both operands")
    variant: str = control("formula", choices=("formula", "adder"),
                           help="the equation, or the adder of bit patterns (slow: 2^mantissa products)")

    def storage_bytes(self, rows: int, columns: int) -> int:
        return 2 * rows * columns

    def pack(self, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.nn.Module:
        from workbench.runtime.packed_lmul import LMul

        return LMul(weight, bias, self.mantissa, self.variant)
