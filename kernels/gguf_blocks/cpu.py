"""GGUF blocks in the native library's panels: the same numbers in another order, nothing rounded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from workbench.kernels.gguf_blocks import reference
from workbench.kernels.native import abi, linear, panels


@dataclass(frozen=True)
class Stored:
    """A matrix in panels: ``q`` and ``scales`` are all its bytes."""

    q: torch.Tensor
    scales: torch.Tensor
    rows: int
    columns: int
    form: str

    @property
    def nbytes(self) -> int:
        return self.q.nbytes + self.scales.nbytes

    def weight(self, activations: int = abi.A16) -> abi.Weight:
        """The library's structure over these bytes."""
        scale = abi.SCALE_K if self.form == "Q4_K" else abi.SCALE_HALF
        make = linear.octets if self.form == "Q8_0" else linear.nibbles
        return make(self.q, self.scales, self.rows, self.columns, 32, scale, activations)


def pack(raw: torch.Tensor, form: str) -> Stored:
    """uint8 [N, blocks * bytes], as in a file -> panels. Raises ValueError as ``reference.fields``."""
    f = reference.fields(raw, form)
    n, k = f["q"].shape
    missing = -n % panels.PANEL
    q = F.pad(f["q"], (0, 0, 0, missing))
    code = panels.pack_bytes(q) if form == "Q8_0" else panels.pack_nibbles(q)
    parts = [f["d"][..., None]] if form != "Q4_K" else [f["d"][..., None], f["m"][..., None]]
    halves = panels.pack_scales(F.pad(torch.cat(parts, -1).permute(1, 0, 2), (0, 0, 0, missing)))
    if form != "Q4_K":
        return Stored(code, halves.contiguous(), n, k, form)
    six = torch.cat((f["a"], f["b"]), -1).permute(1, 0, 2)  # [blocks, N, 16]
    octets = panels.pack_scales(F.pad(six, (0, 0, 0, missing)))
    scales = torch.cat((halves.view(torch.uint8).flatten(2), octets.flatten(2)), -1)
    return Stored(code, scales.contiguous(), n, k, form)


def matmul(x: torch.Tensor, stored: Stored, activations: int = abi.A16) -> torch.Tensor:
    """``x`` [M, K] bfloat16 -> [M, N] bfloat16. Raises RuntimeError without the native library."""
    return linear.matmul(x, stored.weight(activations))


def dequantize(stored: Stored) -> torch.Tensor:
    """The numbers that the panels stand for, [N, K] float32: each is one product of file numbers."""
    n, form = stored.rows, stored.form
    q = (panels.unpack_bytes(stored.q) if form == "Q8_0" else panels.unpack_nibbles(stored.q)).float()
    if form != "Q4_K":
        d = panels.unpack_scales(stored.scales)[..., 0].t().float()  # [N, blocks]
        codes = q - (0 if form == "Q8_0" else 8)
        return (codes.view(q.shape[0], -1, 32) * d[..., None]).flatten(1)[:n]
    rows = panels.PANEL
    halves = stored.scales[..., :4 * rows].contiguous().view(torch.float16)
    d, m = panels.unpack_scales(halves.view(*halves.shape[:2], 2, rows)).unbind(-1)
    six = stored.scales[..., 4 * rows:].reshape(*stored.scales.shape[:2], 16, rows)
    a, b = panels.unpack_scales(six.contiguous()).float().permute(1, 0, 2).split(8, -1)  # [N, blocks, 8]
    scale, low = (d.t().float()[..., None] * a).flatten(1), (m.t().float()[..., None] * b).flatten(1)
    return (q.view(q.shape[0], -1, 32) * scale[..., None] - low[..., None]).flatten(1)[:n]
