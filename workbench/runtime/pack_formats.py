"""From a matrix to a module of codes, one function per number format.

Rounding is to nearest; codes are chosen against the scales as stored."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from workbench.errors import SettingsError
from workbench.formats import blocks, elements, layout
from workbench.formats.blocks import Format
from workbench.formats.layout import PANEL, Layout
from workbench.formats.scales import Rule
from workbench.runtime.packed_fields import Fields, padded_codes, padded_scales


def integers(weight: torch.Tensor, bias: torch.Tensor | None, bits: int, group: int,
             activations: str = "bf16") -> Fields:
    """From each group's minimum to its maximum, bfloat16 scale and offset; 1 bit: the mean of each side."""
    lay, w = layout.integers(bits, group), _finite(weight)
    parts = _grouped(w, group, repeat=True)
    low, high = parts.amin(-1), parts.amax(-1)
    if bits == 1:
        mean = parts.mean(-1)
        spread = (parts - mean[..., None]).abs().mean(-1)
        low, high = mean - spread, mean + spread
    scale = ((high - low) / ((1 << bits) - 1)).clamp_(min=1e-30).bfloat16()
    offset = (low + scale.float() * lay.middle).bfloat16()
    codes = ((parts - offset.float()[..., None]) / scale.float()[..., None] + lay.middle).round_()
    codes = codes.clamp_(0, (1 << bits) - 1).to(torch.uint8).flatten(-2)[:, :w.shape[1]]
    pairs = torch.stack([padded_scales(t, lay, w.shape[1]) for t in (scale, offset)], -1)
    return _module(f"int{bits} fields", codes, _panels(pairs), w, lay, bias, activations)


def bipolar(weight: torch.Tensor, bias: torch.Tensor | None, bits: int, group: int,
            activations: str = "bf16") -> Fields:
    """Nearest odd integer times a scale per group; one bit: the mean magnitude."""
    lay, w = layout.bipolar(bits, group), _finite(weight)
    parts = _grouped(w, group)
    top = (1 << bits) - 1
    if bits == 1:
        real = _grouped(torch.ones_like(w), group).sum(-1).clamp(min=1)
        size = parts.abs().sum(-1) / real
    else:
        size = parts.abs().amax(-1)
    scale = (size / top).clamp_(min=1e-30).bfloat16()
    codes = ((parts / scale.float()[..., None] + top) / 2).round_().clamp_(0, top)
    codes = codes.to(torch.uint8).flatten(-2)[:, :w.shape[1]]
    stored = _panels(padded_scales(scale, lay, w.shape[1])[..., None])
    return _module(f"bipolar{bits} fields", codes, stored, w, lay, bias, activations)


def float4(weight: torch.Tensor, bias: torch.Tensor | None, name: str, block: int, rule: Rule,
           activations: str = "bf16") -> Fields:
    """E2M1 with one-byte block scales: MXFP4, NVFP4 and relatives."""
    held = _quantized(weight, Format(name, elements.E2M1, block, rule))
    lay = layout.float4(block, rule.name, float(held.whole))
    return _bytes(name, held, weight, lay, bias, activations)


def block_float(weight: torch.Tensor, bias: torch.Tensor | None, mantissa: int, block: int,
                activations: str = "bf16") -> Fields:
    """Block floating point: sign and magnitude become an integer around 2^(mantissa - 1)."""
    from workbench.formats import bfp

    form = bfp.format_of(mantissa, block)
    held = _quantized(weight, form)
    lay = layout.block_float(mantissa, block)
    numbers = elements.decode(held.codes, form.element)
    codes = (numbers + lay.middle).to(torch.uint8)
    return _bytes(f"bfp{mantissa}", blocks.Coded(codes, held.scales, held.whole, form), weight, lay, bias,
                  activations)


def normal_float(weight: torch.Tensor, bias: torch.Tensor | None, group: int,
                 activations: str = "bf16") -> Fields:
    """NF4, its scales in E4M3 under one float32 and one mean per 16 rows and 16 groups."""
    from workbench.kernels.native import fields

    lay, w = layout.normal_float(group), _finite(weight)
    parts = _grouped(w, group)
    amax = parts.abs().amax(-1)
    small, second, mean = _twice(padded_scales(amax, lay, w.shape[1]), amax.shape)
    lift = second.repeat_interleave(PANEL, 0).repeat_interleave(fields.SECTION, 1)[:, :small.shape[1]]
    base = mean.repeat_interleave(PANEL, 0).repeat_interleave(fields.SECTION, 1)[:, :small.shape[1]]
    scale = (elements.decode(small, elements.E4M3) * lift + base).clamp_(min=0)
    scale = scale[:amax.shape[0], :amax.shape[1]]
    safe = torch.where(scale > 0, scale, torch.ones_like(scale))
    codes = elements.encode(parts / safe[..., None], elements.NF4).flatten(-2)[:, :w.shape[1]]
    return _module("nf4", codes, fields.pack_double(small, second, mean), w, lay, bias, activations)


def float8(weight: torch.Tensor, bias: torch.Tensor | None, kind: str, block: int) -> Fields:
    """E4M3 or E5M2; ``block`` 0: one bfloat16 scale per row, else a power of two per block."""
    element = elements.E4M3 if kind == "e4m3" else elements.E5M2
    lay, w = layout.float8(kind, block), _finite(weight)
    if block:
        held = blocks.quantize(w, Format(f"fp8 {kind}", element, block, Rule("e8m0")))
        return _bytes(f"fp8 {kind}", held, w, lay, bias, "bf16")
    scale = (w.abs().amax(1) / element.largest).clamp_(min=1e-30).bfloat16()
    codes = elements.encode(w / scale.float()[:, None], element)
    stored = F.pad(scale, (0, -w.shape[0] % PANEL)).view(-1, PANEL)
    return _module(f"fp8 {kind}", codes, stored, w, lay, bias, "bf16")


def float8_codes(codes: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> Fields:
    """E4M3 bytes [rows, columns] as a file stores them, with one scale per row [rows] (kept in bfloat16)."""
    lay = layout.float8("e4m3", 0)
    stored = F.pad(scale.bfloat16(), (0, -codes.shape[0] % PANEL)).view(-1, PANEL)
    return _module("fp8 e4m3", codes, stored, codes, lay, bias, "bf16")


def _finite(weight: torch.Tensor) -> torch.Tensor:
    w = weight.detach().float()
    if not bool(torch.isfinite(w).all()):
        raise SettingsError("a matrix of this model has numbers that are not finite; it cannot be stored in "
                            "fewer bits. Load it with weights=bf16 to find them")
    return w


def _grouped(w: torch.Tensor, group: int, repeat: bool = False) -> torch.Tensor:
    """[rows, groups, group]; the last group is filled with zeros, or with its row's last number."""
    padding = -w.shape[1] % group
    if padding and repeat:
        w = torch.cat((w, w[:, -1:].expand(-1, padding)), 1)
    return F.pad(w, (0, -w.shape[1] % group)).unflatten(1, (-1, group))


def _panels(scales: torch.Tensor) -> torch.Tensor:
    """[rows, groups, c] -> [panels, groups, c, 16]."""
    from workbench.kernels.native import panels

    return panels.pack_scales(scales.permute(1, 0, 2).contiguous())


def _quantized(weight: torch.Tensor, form: Format) -> blocks.Coded:
    return blocks.quantize(_finite(weight), form)


def _bytes(name: str, held: blocks.Coded, weight: torch.Tensor, lay: Layout, bias: torch.Tensor | None,
           activations: str) -> Fields:
    from workbench.kernels.native import fields

    stored = fields.pack_bytes(padded_scales(held.scales, lay, weight.shape[1]))
    return _module(name, held.codes, stored, weight, lay, bias, activations)


def _module(name: str, codes: torch.Tensor, scales: torch.Tensor, weight: torch.Tensor, lay: Layout,
            bias: torch.Tensor | None, activations: str) -> Fields:
    from workbench.kernels.native import fields

    packed = fields.pack(padded_codes(codes, lay), lay.bits)
    return Fields(name, packed, scales.contiguous(), (weight.shape[0], weight.shape[1]), lay, bias,
                  activations)


def _twice(scales: torch.Tensor, real: torch.Size) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """[rows padded, groups] -> E4M3 codes, and per panel and section float32 ``second`` and ``mean``."""
    from workbench.kernels.native import fields

    inside = torch.zeros_like(scales)
    inside[:real[0], :real[1]] = 1
    sections = -(-scales.shape[1] // fields.SECTION)
    fill = sections * fields.SECTION - scales.shape[1]
    parts, mask = (F.pad(t, (0, fill)).view(-1, PANEL, sections, fields.SECTION) for t in (scales, inside))
    mean = (parts * mask).sum((1, 3)) / mask.sum((1, 3)).clamp(min=1)
    away = (parts - mean[:, None, :, None]) * mask
    second = away.abs().amax((1, 3)) / elements.E4M3.largest
    safe = torch.where(second > 0, second, torch.ones_like(second))
    codes = elements.encode(away / safe[:, None, :, None], elements.E4M3)
    codes = codes.view(scales.shape[0], -1)[:, :scales.shape[1]].contiguous()
    return codes, second, mean
