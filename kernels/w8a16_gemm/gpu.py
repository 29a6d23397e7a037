"""Triton: int8 tiles are converted in registers, multiplied in float32, scaled once at the end."""

from __future__ import annotations

import os

import torch
import triton
import triton.language as tl

#: Triton's interpreter (TRITON_INTERPRET=1) cannot multiply bfloat16: there operands are widened.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def operand(dtype: torch.dtype) -> tl.dtype:
    """The type that ``tl.dot`` gets for activations of this dtype."""
    narrow = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
    return tl.float32 if INTERPRETED else narrow.get(dtype, tl.float32)


@triton.jit
def _kernel(x, q, scale, y, m, n, k, stride_x, stride_q, stride_y,
            BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, DOT: tl.constexpr):
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    cols = tl.program_id(1) * BN + tl.arange(0, BN)
    depth = tl.arange(0, BK)
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for start in range(0, k, BK):
        inside = start + depth < k
        a = tl.load(x + rows[:, None] * stride_x + (start + depth)[None, :],
                    mask=(rows < m)[:, None] & inside[None, :], other=0.0)
        w = tl.load(q + cols[None, :] * stride_q + (start + depth)[:, None],
                    mask=(cols < n)[None, :] & inside[:, None], other=0)
        # int8 is exact in bfloat16
        acc = tl.dot(a.to(DOT), w.to(tl.float32).to(DOT), acc, input_precision="ieee")
    s = tl.load(scale + cols, mask=cols < n, other=0.0).to(tl.float32)
    out = (acc * s[None, :]).to(y.dtype.element_ty)
    tl.store(y + rows[:, None] * stride_y + cols[None, :], out,
             mask=(rows < m)[:, None] & (cols < n)[None, :])


def matmul(x: torch.Tensor, q: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """``x`` [M, K] bfloat16, ``q`` int8 [N, Kp >= K], ``scale`` [N] -> [M, N]; any M, N, K."""
    (m, k), n = x.shape, q.shape[0]
    y = torch.empty(m, n, device=x.device, dtype=x.dtype)
    bm = 16 if m <= 16 else 32 if m <= 32 else 64
    bn, bk = (32, 128) if m <= 16 else (64, 64)
    grid = (triton.cdiv(m, bm), triton.cdiv(n, bn))
    _kernel[grid](x, q, scale, y, m, n, k, x.stride(0), q.stride(0), y.stride(0),
                  BM=bm, BN=bn, BK=bk, DOT=operand(x.dtype), num_warps=4, num_stages=3)
    return y
