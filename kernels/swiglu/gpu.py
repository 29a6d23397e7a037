"""Triton: the gated activation in one pass, from one buffer [gate | up] or from two."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _swiglu(gate, up, y, width, stride_gate, stride_up, BD: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    inside = d < width
    g = tl.load(gate + row * stride_gate + d, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + row * stride_up + d, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + row * width + d, g / (1.0 + tl.exp(-g)) * u, mask=inside)


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """``gate``, ``up`` [..., D], rows evenly spaced (halves of one product are) -> dense [..., D]."""
    width = gate.shape[-1]
    rows = gate.numel() // width
    y = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    g, u = (t if t.dim() == 2 else t.reshape(rows, width) for t in (gate, up))
    _swiglu[(rows, triton.cdiv(width, 1024))](g, u, y, width, g.stride(0), u.stride(0), BD=1024)
    return y
