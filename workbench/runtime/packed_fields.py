"""Linear modules over codes of 1 to 8 bits and 8-bit floats, in the panels of the native products.

The bytes are the same with and without the native library; without it (or on a GPU) the matrix is expanded
to the activations' dtype at every product, which ``kernel`` says.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from workbench.formats import elements
from workbench.formats.layout import PANEL, Layout
from workbench.runtime.packed import Packed


class Fields(Packed):
    """``q`` uint8 [panels, bytes]; ``scales`` bfloat16 or uint8 [panels, ...]; ``levels`` uint8 [16] or
    none. ``dequantize`` reads these bytes and nothing else."""

    q: torch.Tensor
    scales: torch.Tensor

    def __init__(self, name: str, q: torch.Tensor, scales: torch.Tensor, shape: tuple[int, int],
                 layout: Layout, bias: torch.Tensor | None, activations: str = "bf16") -> None:
        from workbench.errors import SettingsError
        from workbench.kernels import native

        super().__init__()
        self.out_features, self.in_features = shape
        self.layout = layout
        self.register_buffer("q", q)
        self.register_buffer("scales", scales)
        self.native = not q.is_cuda and native.available()
        self.eight = activations == "int8"
        if self.eight and not self.native:
            raise SettingsError("8-bit activations need the native CPU kernels: "
                                + (native.why_not() or "the weights are on a GPU")
                                + "; set weights.activations=bf16")
        dtype = torch.float32 if self.native else torch.bfloat16
        self.register_buffer("bias", None if bias is None else bias.to(torch.bfloat16).to(dtype))
        self._levels = torch.tensor(layout.levels, dtype=torch.uint8) if layout.levels else None
        self.kernel = self._describe(name)

    def _describe(self, name: str) -> str:
        from workbench.kernels import native

        if not self.native:
            why = "" if self.q.is_cuda else f" ({native.why_not()})"
            return f"{name}: expanded to bfloat16 at every product{why}"
        if self.layout.kind != "fields":
            return f"native {name}: expanded to float32 in registers ({native.isa()})"
        return f"native {name} A{8 if self.eight else 16} ({native.isa()})"

    @property
    def native_weight(self) -> Any:
        """The C structure over this moment's addresses."""
        if not self.native or self.q.is_meta:
            return None
        from workbench.kernels.native import abi, linear

        lay = self.layout
        scale = getattr(abi, f"SCALE_{lay.scale.upper()}")
        if lay.kind != "fields":
            return linear.float8(self.q, self.scales, self.out_features, self.in_features, lay.group,
                                 getattr(abi, lay.kind.upper()), scale, lay.unit)
        group = lay.group or lay.padded(self.in_features)
        return linear.fields(self.q, self.scales, self.out_features, self.in_features, group, lay.bits,
                             scale, lay.unit, lay.middle, self._levels, abi.A8 if self.eight else abi.A16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.native:
            return F.linear(x, self.dequantize().to(x.dtype),
                            None if self.bias is None else self.bias.to(x.dtype))
        from workbench.kernels.native import ops

        return ops.stored_matmul(x, self.native_weight, self.bias)

    def codes(self) -> torch.Tensor:
        """uint8 [rows, columns] without padding."""
        from workbench.kernels.native import fields

        return fields.unpack(self.q, self.layout.bits)[:self.out_features, :self.in_features]

    def dequantize(self) -> torch.Tensor:
        lay, codes = self.layout, self.codes()
        if lay.kind == "fields":
            numbers = codes.float() if self._levels is None else \
                self._levels.to(codes.device)[codes.long()].float()
            numbers = numbers - lay.middle
        else:
            numbers = elements.decode(codes, elements.E4M3 if lay.kind == "e4m3" else elements.E5M2)
        scale, offset = self._factors()
        width = lay.group or lay.padded(self.in_features)
        wide = scale.repeat_interleave(width, 1)[:self.out_features, :self.in_features] * lay.unit
        whole = numbers * wide
        if offset is None:
            return whole
        return whole + offset.repeat_interleave(width, 1)[:self.out_features, :self.in_features]

    def _factors(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Scales [rows padded, groups] float32, and offsets of pairs."""
        from workbench.kernels.native import fields, panels

        lay, stored = self.layout, self.scales
        if lay.scale == "row":
            return stored.float().reshape(-1, 1), None
        if lay.scale in ("pair", "bf16"):
            found = panels.unpack_scales(stored).float()  # [groups, rows, 1 or 2]
            return found[..., 0].T, found[..., 1].T if lay.scale == "pair" else None
        if lay.scale == "double":
            small, second, mean = fields.unpack_double(stored)
            second, mean = (t.repeat_interleave(PANEL, 0).repeat_interleave(fields.SECTION, 1)
                            [:, :small.shape[1]] for t in (second, mean))
            return (elements.decode(small, elements.E4M3) * second + mean).clamp_(min=0), None
        codes = fields.unpack_bytes(stored)
        if lay.scale == "e8m0":  # the kernels read code 0 as zero
            return torch.where(codes > 0, torch.exp2(codes.float() - 127), torch.zeros(())), None
        return elements.decode(codes, elements.E4M3 if lay.scale == "e4m3" else elements.UE5M3), None


def padded_codes(codes: torch.Tensor, layout: Layout) -> torch.Tensor:
    """uint8 [rows, columns] -> [rows to 16, columns to whole groups], zeros behind."""
    rows, columns = codes.shape
    return F.pad(codes, (0, layout.padded(columns) - columns, 0, -rows % PANEL))


def padded_scales(scales: torch.Tensor, layout: Layout, columns: int) -> torch.Tensor:
    """[rows, groups] -> [rows to 16, groups as stored], zeros behind."""
    rows, groups = scales.shape
    return F.pad(scales, (0, layout.groups(columns) - groups, 0, -rows % PANEL))
