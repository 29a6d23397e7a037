"""The CPU kernel as a function of tensors. The decoder calls the same C function without this."""

from __future__ import annotations

import ctypes

import torch


def swiglu(library: ctypes.CDLL, gate: torch.Tensor, up: torch.Tensor,
           dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """``gate``, ``up`` of one shape, float32 -> that shape in ``dtype``."""
    gate, up = gate.float().contiguous(), up.float().contiguous()
    out = torch.empty(gate.shape, dtype=dtype)
    library.wb_swiglu(ctypes.c_void_p(gate.data_ptr()), ctypes.c_void_p(up.data_ptr()),
                      ctypes.c_int64(gate.numel()), ctypes.c_void_p(out.data_ptr()),
                      int(dtype == torch.bfloat16))
    return out
