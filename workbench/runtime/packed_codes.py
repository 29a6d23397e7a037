"""Linear modules made of codes that were chosen before: by calibration, or read from a quantized file.

Codes q in 0 .. 2^b - 1 and pairs (scale, offset) per group of columns, w = (q - 2^(b-1)) s + z, as
everywhere. 4 bits run in the int4 kernels, symmetric bytes per row in the int8 kernels, every other width in
the native product over fields of bits. Groups that no kernel takes (no multiple of 32) are kept as bit planes
at their own size and expanded at each product, which ``kernel`` says.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from workbench.runtime.packed import Int4, Int8, Packed, Quantized

#: Rows of every stored matrix are padded to this.
ROW_TILE = 16
#: Groups that torch's own int4 product takes where the native library is absent.
TORCH_GROUPS = (32, 64, 128, 256)


def module_of(q: torch.Tensor, pairs: torch.Tensor, bits: int, bias: torch.Tensor | None,
              device: torch.device, note: str = "") -> Packed:
    """``q`` uint8 [rows, columns], ``pairs`` bfloat16 [groups, rows, 2] -> the module that runs them.

    ``note`` is appended to ``kernel``: how the codes came about."""
    module = _module_of(q, pairs, bits, bias, device)
    if note:
        module.kernel += f", {note}"
    return module


def _module_of(q: torch.Tensor, pairs: torch.Tensor, bits: int, bias: torch.Tensor | None,
               device: torch.device) -> Packed:
    if q.dtype != torch.uint8:
        raise TypeError(f"codes are uint8, not {q.dtype}")
    group = q.shape[1] // pairs.shape[0]
    if bits == 4 and nibbles_run(group, device):
        return Int4Codes(q, pairs, bias, device)
    if bits == 8 and pairs.shape[0] == 1 and not pairs[..., 1].any() and int(q.min()) > 0:
        return Int8Codes(q, pairs, bias, device)
    if group % 32 == 0:
        return fields(q, pairs, bits, bias, q.shape[1], device)
    return Planes(q.to(device), pairs.to(device), bits, bias, q.shape[1])


def nibbles_run(group: int, device: torch.device) -> bool:
    """Whether an int4 kernel takes groups of this width."""
    from workbench.kernels import native

    if device.type == "cpu" and native.available():
        return group % 32 == 0
    return group in TORCH_GROUPS


def fields(q: torch.Tensor, pairs: torch.Tensor, bits: int, bias: torch.Tensor | None, columns: int,
           device: torch.device) -> Packed:
    """Codes of any width for the native product; ``columns`` of ``q`` are real, the rest is padding."""
    from workbench.formats import layout
    from workbench.kernels.native import fields as native_fields
    from workbench.kernels.native import panels
    from workbench.runtime.packed_fields import Fields, padded_codes

    lay = layout.integers(bits, q.shape[1] // pairs.shape[0])
    packed = native_fields.pack(padded_codes(q.to(device), lay), bits)
    scales = F.pad(pairs.to(device, torch.bfloat16), (0, 0, 0, -q.shape[0] % ROW_TILE))
    return Fields(f"int{bits} fields", packed, panels.pack_scales(scales.contiguous()).contiguous(),
                  (q.shape[0], columns), lay, None if bias is None else bias.to(device))


class _Held(Quantized):
    """Sets up what :class:`Quantized` keeps, without a matrix to look at."""

    def _hold_codes(self, shape: tuple[int, int], device: torch.device, bias: torch.Tensor | None) -> None:
        on_device = None if bias is None else bias.to(device)
        self._hold(torch.empty(1, device=device).expand(shape), on_device, "bf16")
        if self.native:
            self.kernel = self.kernel.replace("codes", "")


class Int4Codes(_Held, Int4):
    """:class:`Int4` from codes 0..15."""

    def __init__(self, q: torch.Tensor, pairs: torch.Tensor, bias: torch.Tensor | None,
                 device: torch.device) -> None:
        from workbench.kernels.native import panels
        from workbench.kernels.w4a16_gemm import launch

        torch.nn.Module.__init__(self)
        rows, columns = q.shape
        self.group = columns // pairs.shape[0]
        self._hold_codes((rows, columns), device, bias)
        q = F.pad(q, (0, 0, 0, -rows % ROW_TILE)).to(device)
        pairs = F.pad(pairs, (0, 0, 0, -rows % ROW_TILE)).to(device, torch.bfloat16).contiguous()
        self.register_buffer("q", panels.pack_nibbles(q) if self.native else launch.pack(q, self.group))
        self.register_buffer("pairs", panels.pack_scales(pairs) if self.native else pairs)
        if not self.native:
            self._fall_back(launch, q)
            self._dequantize = launch.dequantize


class Int8Codes(_Held, Int8):
    """:class:`Int8` from codes 1..255 around 128 with one scale per row."""

    def __init__(self, q: torch.Tensor, pairs: torch.Tensor, bias: torch.Tensor | None,
                 device: torch.device) -> None:
        from workbench.kernels.native import panels
        from workbench.kernels.w8a16_gemm import cost, launch

        torch.nn.Module.__init__(self)
        rows, columns = q.shape
        self._hold_codes((rows, columns), device, bias)
        np_, kp = cost.padded(rows, columns)
        signed = (q ^ 128).view(torch.int8)
        signed = F.pad(signed, (0, kp - columns, 0, np_ - rows)).to(device)
        scale = F.pad(pairs[0, :, 0], (0, np_ - rows)).to(device, torch.bfloat16)
        self.register_buffer("q", panels.pack_bytes(signed) if self.native else signed)
        self.register_buffer("scale", scale.contiguous())
        if not self.native:
            self._fall_back(launch, signed)


class Planes(Packed):
    """Codes of any width as bit planes [bits, rows, columns / 8]; expanded at every product.

    Takes exactly its bits; it saves memory and no time. ``columns``: real ones, the rest is padding."""

    planes: torch.Tensor
    pairs: torch.Tensor

    def __init__(self, q: torch.Tensor, pairs: torch.Tensor, bits: int, bias: torch.Tensor | None,
                 columns: int) -> None:
        from workbench.kernels.bit_planes import planes

        super().__init__()
        self.out_features, self.in_features, self.bits = q.shape[0], columns, bits
        self.group = q.shape[1] // pairs.shape[0]
        self.register_buffer("planes", planes.pack(q, bits))
        self.register_buffer("pairs", pairs.to(torch.bfloat16).contiguous())
        self.register_buffer("bias", None if bias is None else bias.to(q.device, torch.bfloat16))
        self.kernel = f"{bits}-bit planes, expanded to the activations' dtype at every product"

    def _expanded(self, dtype: torch.dtype) -> torch.Tensor:
        from workbench.kernels.bit_planes import planes

        rows = self.out_features
        scale, offset = self.pairs.to(dtype).permute(1, 0, 2).unsqueeze(-2).unbind(-1)
        q: Any = planes.unpack(self.planes).view(rows, self.pairs.shape[0], self.group)
        whole = (q.to(dtype) - (1 << (self.bits - 1))) * scale + offset
        return whole.view(rows, -1)[:, :self.in_features]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self._expanded(torch.float32).to(x.dtype), bias)

    def dequantize(self) -> torch.Tensor:
        return self._expanded(torch.float32)


class Reordered(Packed):
    """A matrix stored with its columns in another order: inputs are gathered before each product."""

    order: torch.Tensor

    def __init__(self, inner: Packed, order: torch.Tensor) -> None:
        super().__init__()
        self.inner = inner
        self.in_features, self.out_features = inner.in_features, inner.out_features
        self.register_buffer("order", order)
        self.bias = None  # the inner module adds it
        self.kernel = f"{inner.kernel}, inputs reordered first"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.inner(x.index_select(-1, self.order))
        return y

    def dequantize(self) -> torch.Tensor:
        stored = self.inner.dequantize()
        whole = torch.empty_like(stored)
        whole[:, self.order] = stored
        return whole
