"""L-Mul: products by integer addition, emulated, with its error and an estimate of its energy.

(1 + a)(1 + b) 2^(e + f) becomes (1 + a + b + 2^-l(m)) 2^(e + f), l = m up to 3 mantissa bits, 3 at 4, else 4
(Luo and Sun 2024, arXiv:2410.00907, section 2.2). Two readings exist and differ: the ``formula``, whose
mantissa may pass 2, and the ``adder`` of bit patterns that the hardware form describes, which carries into
the exponent there and goes on with twice the slope. No processor has it: here every product is slower than
a multiplication, and energy is a model, not a measurement.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from workbench.errors import SettingsError

VARIANTS = ("formula", "adder")
#: Picojoules per operation at 45 nm (Horowitz 2014, "Computing's energy problem", figure 1.1.9).
ENERGY_PJ = {"fp32 multiply": 3.7, "fp32 add": 0.9, "fp16 multiply": 1.1, "fp16 add": 0.4,
             "int8 multiply": 0.2, "int32 add": 0.1, "int8 add": 0.03}
_BIAS, _FRACTION = 127, 23


def offset_bits(mantissa: int) -> int:
    """l(m). Raises SettingsError."""
    if not 1 <= mantissa <= _FRACTION:
        raise SettingsError(f"L-Mul takes 1 to 23 mantissa bits, not {mantissa}")
    return mantissa if mantissa <= 3 else 3 if mantissa == 4 else 4


def shorten(x: torch.Tensor, mantissa: int) -> torch.Tensor:
    """float32 with ``mantissa`` bits, to nearest, ties to even; the exponent's range stays."""
    if mantissa == _FRACTION:
        return x.float()
    bits = x.float().contiguous().view(torch.int32)
    cut = _FRACTION - mantissa
    bits = bits + ((1 << (cut - 1)) - 1) + (bits >> cut & 1)
    return (bits >> cut << cut).view(torch.float32)


def multiply(x: torch.Tensor, y: torch.Tensor, mantissa: int = 4, variant: str = "adder") -> torch.Tensor:
    """Elementwise, broadcast, float32. Zeros, and results below the smallest normal number, give 0; results
    beyond the range saturate. Raises SettingsError."""
    if variant not in VARIANTS:
        raise SettingsError(f"L-Mul is {' or '.join(VARIANTS)}, not {variant!r}")
    shift = offset_bits(mantissa)
    a, b = torch.broadcast_tensors(shorten(x, mantissa), shorten(y, mantissa))
    i, j = (t.contiguous().view(torch.int32).long() for t in (a, b))
    sign = (i ^ j) & (1 << 31)
    i, j = i & 0x7FFFFFFF, j & 0x7FFFFFFF
    zero = (i < 1 << _FRACTION) | (j < 1 << _FRACTION)  # denormals count as zero
    if variant == "adder":
        total = i + j - (_BIAS << _FRACTION) + (1 << (_FRACTION - shift))
        zero |= total < 1 << _FRACTION
        bits = total.clamp(1 << _FRACTION, 0x7F7FFFFF) | sign
        out = torch.where(bits >= 1 << 31, bits - (1 << 32), bits).to(torch.int32).view(torch.float32)
    else:
        low = (1 << _FRACTION) - 1
        part = 1 + ((i & low) + (j & low)).double() / (1 << _FRACTION) + 2.0 ** -shift
        exponent = (i >> _FRACTION) + (j >> _FRACTION) - 2 * _BIAS
        zero |= exponent < 1 - _BIAS
        size = part * torch.exp2(exponent.double())
        size = size.clamp(max=torch.finfo(torch.float32).max)
        out = torch.where(sign != 0, -size, size).float()
    return torch.where(zero, torch.zeros_like(out), out)


def matmul(x: torch.Tensor, w: torch.Tensor, mantissa: int = 4, variant: str = "adder", rows: int = 16
           ) -> torch.Tensor:
    """``x`` [..., K] times ``w`` [N, K] transposed, every product an L-Mul, sums exact in float32.
    ``rows`` of x are done at a time ([rows, N, K] numbers are held)."""
    flat = x.reshape(-1, x.shape[-1])
    parts = [multiply(part[:, None], w[None], mantissa, variant).sum(-1) for part in flat.split(rows)]
    return torch.cat(parts).view(*x.shape[:-1], w.shape[0])


def products(x: torch.Tensor, w: torch.Tensor, mantissa: int = 4, variant: str = "formula") -> torch.Tensor:
    """As :func:`matmul` of x [M, K], w [N, K], by ordinary float32 products of split operands.

    2^e (1 + a) and 2^f (1 + b): the formula's (1 + a + c) + b is a sum of two products; the adder is one
    product per value of ``a``, of which there are 2^mantissa. Exact where nothing leaves float32's range, but
    for the order of the sum. Raises SettingsError."""
    shift = 2.0 ** -offset_bits(mantissa)
    (power, part), (wide, fraction) = _split(x, mantissa), _split(w, mantissa)
    if variant == "formula":
        return torch.cat((power * (1 + part + shift), power), -1) @ torch.cat((wide, wide * fraction), -1).T
    if variant != "adder":
        raise SettingsError(f"L-Mul is {' or '.join(VARIANTS)}, not {variant!r}")
    total = x.new_zeros((len(x), len(w)), dtype=torch.float32)
    for value in part[power != 0].unique().tolist():
        sums = value + fraction + shift
        carry = sums.floor()
        total += torch.where(part == value, power, 0.0) @ (wide * torch.exp2(carry) * (1 + sums - carry)).T
    return total


def _split(x: torch.Tensor, mantissa: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Signed powers of two (0 for zeros and denormals) and fractions in [0, 1) of shortened numbers."""
    short = shorten(x, mantissa)
    digits, exponent = torch.frexp(short)
    power = torch.where(short.abs() < 2.0 ** (1 - _BIAS), 0.0, torch.ldexp(digits.sign(), exponent - 1))
    return power, digits.abs() * 2 - 1


@dataclass(frozen=True)
class Error:
    """Relative errors of single products against exact ones of the operands as given."""

    rms: float
    bias: float
    largest: float


def error(x: torch.Tensor, y: torch.Tensor, mantissa: int, variant: str) -> Error:
    """Over pairs whose exact product is not zero."""
    exact = x.double() * y.double()
    keep = exact != 0
    away = (multiply(x, y, mantissa, variant).double()[keep] - exact[keep]) / exact[keep]
    return Error(float(away.square().mean().sqrt()), float(away.mean()), float(away.abs().max()))


def energy_saved(against: str = "fp32 multiply", addition: str = "int32 add") -> float:
    """Share of a multiplication's energy that an addition saves. Estimated: figures of circuits at 45 nm, no
    data movement, which dominates. Raises SettingsError."""
    for name in (against, addition):
        if name not in ENERGY_PJ:
            raise SettingsError(f"there is no energy of {name!r}; choose one of {', '.join(ENERGY_PJ)}")
    return 1 - ENERGY_PJ[addition] / ENERGY_PJ[against]
