"""The CPU kernel as a function of tensors. The decoder calls the same C function without this."""

from __future__ import annotations

import ctypes

import torch


def rotate(library: ctypes.CDLL, x: torch.Tensor, positions: torch.Tensor, frequency: torch.Tensor
           ) -> torch.Tensor:
    """``x`` [n, H, D] float32, ``positions`` int64 [n], ``frequency`` [D / 2] -> [n, H, D]."""
    n, heads, width = x.shape
    angle = torch.arange(int(positions.max()) + 1)[:, None].double() * frequency.double()
    cos, sin = angle.cos().float().contiguous(), angle.sin().float().contiguous()
    out, places = x.float().contiguous().clone(), positions.contiguous()
    library.wb_rope(ctypes.c_void_p(out.data_ptr()), ctypes.c_int64(heads * width), n, heads, width,
                    ctypes.c_void_p(places.data_ptr()), ctypes.c_void_p(cos.data_ptr()),
                    ctypes.c_void_p(sin.data_ptr()))
    return out
