"""What a code of a few bits stands for: minifloats, quantiles of a normal, signed integers.

A grid is a table of up to 256 levels. Signed minifloats keep the sign in the top bit, as the standards do
(OCP MX 1.0, section 5; OCP FP8; IEEE-like E5M2), so codes are interchangeable with other software's.
Rounding is to nearest, ties to the even code; numbers beyond the largest level saturate.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

from workbench.errors import SettingsError
from workbench.formats.quantiles import NF4_LEVELS


@dataclass(frozen=True)
class Element:
    """A grid. ``levels``: value of every code, None where the code is no finite number.

    ``mirrored``: the top bit is a sign and the lower codes are magnitudes in rising order; otherwise codes
    rise with their values."""

    name: str
    bits: int
    levels: tuple[float | None, ...]
    mirrored: bool
    mantissa: int = 0

    @property
    def largest(self) -> float:
        """The largest finite magnitude that both signs reach."""
        finite = [v for v in self.levels if v is not None]
        return min(max(finite), -min(finite)) if self.signed else max(finite)

    @property
    def top_exponent(self) -> int:
        """floor(log2) of the largest level: what the rule for power-of-two scales subtracts."""
        return _floor_log2(self.largest)

    @property
    def signed(self) -> bool:
        return any(v is not None and v < 0 for v in self.levels)

    def rising(self) -> tuple[float, ...]:
        """The finite levels that encoding searches: magnitudes of a mirrored grid, else all."""
        half = self.levels[:len(self.levels) // 2] if self.mirrored else self.levels
        return tuple(v for v in half if v is not None)


def _floor_log2(value: float) -> int:
    import math

    return math.frexp(value)[1] - 1


def table(element: Element, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
          ) -> torch.Tensor:
    """Value of each code, [2^bits]; NaN where a code is no number."""
    nan = float("nan")
    return torch.tensor([nan if v is None else v for v in element.levels], dtype=dtype, device=device)


def decode(codes: torch.Tensor, element: Element, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """uint8 codes of any shape -> their values."""
    return table(element, codes.device, dtype)[codes.long()]


def encode(x: torch.Tensor, element: Element) -> torch.Tensor:
    """Floating ``x`` of any shape -> uint8 codes of the nearest levels. NaN gives code 0.

    float64 stays exact; narrower inputs are compared in float32, where every level is exact."""
    x = x if x.dtype == torch.float64 else x.float()
    levels = torch.tensor(element.rising(), dtype=x.dtype, device=x.device)
    code = _nearest(x.abs() if element.mirrored else x, levels)
    if element.mirrored:
        code |= torch.signbit(x).to(torch.uint8) << (element.bits - 1)
    return code


def _nearest(x: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Index of the nearest of rising ``levels``, ties to the even index."""
    middles = (levels[:-1] + levels[1:]) / 2
    shape, x = x.shape, torch.nan_to_num(x, nan=0.0).reshape(-1).contiguous()
    low = torch.bucketize(x, middles, out_int32=True)               # counts middles < x: ties go down
    high = torch.bucketize(x, middles, out_int32=True, right=True)  # counts middles <= x: ties go up
    return torch.where(low % 2 == 0, low, high).to(torch.uint8).view(shape)


def to_nearest(x: torch.Tensor, element: Element) -> torch.Tensor:
    """``x`` rounded onto the grid, in its dtype."""
    return decode(encode(x, element), element, torch.float64 if x.dtype == torch.float64
                  else torch.float32).to(x.dtype)


@functools.cache
def minifloat(exponent: int, mantissa: int, *, signed: bool = True, bias: int | None = None,
              specials: str = "none") -> Element:
    """E``exponent``M``mantissa``. ``specials``: "none": every code is a number (OCP MX elements);
    "nan": only the last code is NaN (E4M3FN, UE5M3); "ieee": the last exponent is infinity and NaN (E5M2).

    ``bias`` defaults to 2^(exponent - 1) - 1; an exponent field of 0 bits gives fixed point with step
    2^(1 - bias - mantissa), which is integers up to the scale. Raises SettingsError."""
    bits = exponent + mantissa + signed
    if not 1 <= bits <= 8 or exponent < 0 or mantissa < 0:
        raise SettingsError(f"E{exponent}M{mantissa} does not fit 1 to 8 bits; choose fewer bits of each")
    shift = bias if bias is not None else max(0, (1 << max(0, exponent - 1)) - 1)
    half = [_value(code, exponent, mantissa, shift) for code in range(1 << (exponent + mantissa))]
    if specials == "nan":
        half[-1] = None
    elif specials == "ieee":
        half[-(1 << mantissa):] = [None] * (1 << mantissa)
    levels = (*half, *(None if v is None else -v for v in half)) if signed else tuple(half)
    name = f"{'' if signed else 'u'}e{exponent}m{mantissa}"
    return Element(name, bits, levels, mirrored=signed, mantissa=mantissa)


def _value(code: int, exponent: int, mantissa: int, bias: int) -> float | None:
    e, m = code >> mantissa, code & ((1 << mantissa) - 1)
    whole, power = (m, 1) if e == 0 else (m + (1 << mantissa), e)
    return float(whole * 2.0 ** (power - bias - mantissa))


@functools.cache
def integers(bits: int) -> Element:
    """-2^(bits - 1) .. 2^(bits - 1) - 1, stored as value + 2^(bits - 1). One bit gives -1 and 1.
    Raises SettingsError."""
    if not 1 <= bits <= 8:
        raise SettingsError(f"integers go from 1 to 8 bits, not {bits}")
    if bits == 1:
        return Element("int1", 1, (-1.0, 1.0), mirrored=False)
    middle = 1 << (bits - 1)
    return Element(f"int{bits}", bits, tuple(float(i) for i in range(-middle, middle)), mirrored=False)


E2M1 = minifloat(2, 1)
E2M3 = minifloat(2, 3)
E3M2 = minifloat(3, 2)
E4M3 = minifloat(4, 3, specials="nan")
E5M2 = minifloat(5, 2, specials="ieee")
UE5M3 = minifloat(5, 3, signed=False, specials="nan")
UE4M3 = minifloat(4, 3, signed=False)
NF4 = Element("nf4", 4, NF4_LEVELS, mirrored=False)
