"""How a block's scale is chosen from its largest magnitude, and how it is stored.

``e8m0``: a power of two, 2^(floor(log2 amax) - top exponent of the element) (OCP MX 1.0, section 6.3), one
byte. ``e4m3`` and ``ue5m3``: amax / largest level, to nearest, one byte; with a tensor scale they hold that
quotient over the tensor scale (NVFP4). ``fp16``, ``bf16``, ``fp32``: the same quotient, unscaled.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from workbench.errors import SettingsError
from workbench.formats import elements
from workbench.formats.elements import Element

#: E8M0 stores exponent + 127 in 0 .. 254.
E8M0_BIAS, E8M0_TOP = 127, 254
FLOATS = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
BYTES: dict[str, Element] = {"e4m3": elements.E4M3, "ue5m3": elements.UE5M3}


@dataclass(frozen=True)
class Rule:
    """``name`` as above; ``tensor``: one float32 for the whole tensor lifts byte scales into their range."""

    name: str
    tensor: bool = False

    def __post_init__(self) -> None:
        if self.name not in {"e8m0", *FLOATS, *BYTES}:
            raise SettingsError(f"there is no block scale {self.name!r}; choose one of e8m0, "
                                f"{', '.join((*BYTES, *FLOATS))}")
        if self.tensor and self.name not in BYTES:
            raise SettingsError(f"a tensor scale lifts one-byte scales with a mantissa; {self.name} has no "
                                "use for it")

    @property
    def bits(self) -> int:
        """Stored bits per block."""
        return {"fp16": 16, "bf16": 16, "fp32": 32}.get(self.name, 8)


def of_tensor(amax: torch.Tensor, element: Element, rule: Rule) -> torch.Tensor:
    """The tensor scale: the block of largest magnitude gets the largest block scale. float32 scalar, 1
    without one or where everything is zero."""
    one = torch.ones((), device=amax.device)
    if not rule.tensor:
        return one
    whole = amax.max().float() / (element.largest * BYTES[rule.name].largest)
    return torch.where(whole > 0, whole, one)


def store(amax: torch.Tensor, element: Element, rule: Rule, whole: torch.Tensor) -> torch.Tensor:
    """Largest magnitudes [...] -> stored scales [...]: uint8 codes, or the float dtype itself."""
    if rule.name == "e8m0":
        return _power(amax, element)
    wanted = amax / element.largest
    if rule.name in FLOATS:
        return wanted.to(FLOATS[rule.name])
    grid = BYTES[rule.name]
    return elements.encode((wanted / whole).clamp(max=grid.largest), grid)


def _power(amax: torch.Tensor, element: Element) -> torch.Tensor:
    exponent = torch.frexp(amax.double()).exponent - 1 - element.top_exponent
    low = torch.full_like(exponent, -E8M0_BIAS)
    exponent = torch.where(amax > 0, exponent, low)
    return (exponent + E8M0_BIAS).clamp(0, E8M0_TOP).to(torch.uint8)


def load(stored: torch.Tensor, rule: Rule, whole: torch.Tensor, dtype: torch.dtype = torch.float32
         ) -> torch.Tensor:
    """Stored scales -> factors, tensor scale included."""
    if rule.name == "e8m0":
        return torch.exp2(stored.double() - E8M0_BIAS).to(dtype)
    if rule.name in FLOATS:
        return stored.to(dtype)
    return elements.decode(stored, BYTES[rule.name], dtype) * whole.to(dtype)
