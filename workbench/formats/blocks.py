"""Block formats: an element grid and a scale per block of columns. One fake-quantizer for all of them.

w = level(code) x block scale (x tensor scale). Blocks run along the last axis, which is the axis that a
product contracts. A last block that the columns do not fill is a shorter block of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from workbench.errors import SettingsError
from workbench.formats import elements, packing, scales
from workbench.formats.elements import Element
from workbench.formats.scales import Rule


@dataclass(frozen=True)
class Format:
    """``block`` columns share a scale; 0: the whole row."""

    name: str
    element: Element
    block: int
    rule: Rule

    def width(self, columns: int) -> int:
        return self.block or columns

    def bits_per_weight(self, columns: int, rows: int = 0) -> float:
        """Stored bits with scales; the tensor scale counts where ``rows`` are given."""
        blocks = -(-columns // self.width(columns))
        row = 8 * packing.stored(columns, self.element.bits) + blocks * self.rule.bits
        return row / columns + (32 / (rows * columns) if rows and self.rule.tensor else 0.0)


@dataclass(frozen=True)
class Coded:
    """``codes`` uint8 [..., columns]; ``scales`` [..., blocks] as stored; ``whole`` float32 scalar."""

    codes: torch.Tensor
    scales: torch.Tensor
    whole: torch.Tensor
    format: Format

    def values(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """[..., columns]: level x scale, products in ``dtype``."""
        width = self.format.width(self.codes.shape[-1])
        factor = scales.load(self.scales, self.format.rule, self.whole, dtype)
        factor = factor.repeat_interleave(width, -1)[..., :self.codes.shape[-1]]
        return elements.decode(self.codes, self.format.element, dtype) * factor


def quantize(x: torch.Tensor, form: Format, noise: torch.Tensor | None = None) -> Coded:
    """Floating ``x`` [..., columns] -> codes and scales. ``noise`` uniform in [0, 1), shaped like ``x``:
    stochastic rounding, else to nearest. Raises SettingsError where x is not finite."""
    if x.numel() == 0 or not x.is_floating_point():
        raise SettingsError(f"{form.name} stores floating-point numbers, at least one; this is "
                            f"{x.dtype} {list(x.shape)}")
    if not bool(torch.isfinite(x).all()):
        raise SettingsError(f"{form.name} cannot store numbers that are not finite; look for NaN or infinity "
                            "in these weights first")
    x = x if x.dtype == torch.float64 else x.float()
    columns = x.shape[-1]
    width = form.width(columns)
    parts = F.pad(x, (0, -columns % width)).unflatten(-1, (-1, width))
    amax = parts.abs().amax(-1)
    whole = scales.of_tensor(amax, form.element, form.rule)
    stored = scales.store(amax, form.element, form.rule, whole)
    factor = scales.load(stored, form.rule, whole, x.dtype)[..., None]
    scaled = torch.where(factor > 0, parts / factor, torch.zeros_like(parts))
    if noise is None:
        codes = elements.encode(scaled, form.element)
    else:
        from workbench.formats import rounding

        codes = rounding.stochastic(scaled, form.element,
                                    F.pad(noise, (0, -columns % width)).view_as(scaled))
    return Coded(codes.flatten(-2)[..., :columns].contiguous(), stored, whole, form)


def fake(x: torch.Tensor, form: Format, axis: int = -1, noise: torch.Tensor | None = None) -> torch.Tensor:
    """``x`` as it reads after storing, in its shape and dtype; blocks run along ``axis``."""
    moved = x.movedim(axis, -1)
    held = quantize(moved, form, None if noise is None else noise.movedim(axis, -1))
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return held.values(dtype).to(x.dtype).movedim(-1, axis)


def sqnr(x: torch.Tensor, stored: torch.Tensor) -> float:
    """10 log10 of signal over error power, in dB; infinite where nothing changed."""
    error = (x.double() - stored.double()).pow(2).sum()
    return float("inf") if error == 0 else float(10 * torch.log10(x.double().pow(2).sum() / error))
