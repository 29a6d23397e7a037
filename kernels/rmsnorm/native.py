"""The CPU kernel as a function of tensors. The decoder calls the same C function without this."""

from __future__ import annotations

import ctypes

import torch


def norm(library: ctypes.CDLL, x: torch.Tensor, weight: torch.Tensor, eps: float,
         residual: torch.Tensor | None = None, dtype: torch.dtype = torch.bfloat16
         ) -> tuple[torch.Tensor, torch.Tensor]:
    """``x`` [M, D] added to ``residual``, float32 -> (normalized in ``dtype``, new residual)."""
    m, d = x.shape
    stream = (x if residual is None else residual).float().clone()
    add = None if residual is None else x.float().contiguous()
    scale = weight.float().contiguous()
    out = torch.empty(m, d, dtype=dtype)
    library.wb_rms_norm(
        ctypes.c_void_p(stream.data_ptr()), ctypes.c_void_p(add.data_ptr() if add is not None else 0),
        ctypes.c_void_p(scale.data_ptr()), ctypes.c_float(eps), m, d,
        ctypes.c_void_p(out.data_ptr()), int(dtype == torch.bfloat16))
    return out, stream
