"""Triton: numbers are put together from their planes in registers and multiplied at once.

One group of columns per step; all planes of it are loaded before the first is used, so the loads are under
way
together. Groups are split over programs when there are few rows, and summed in a fixed order. One kernel
for every
width (the loop over planes is unrolled when it is compiled): Tilus (Ding et al. 2025, arXiv:2504.12984)
shows why
widths that do not divide a byte are worth having.
"""

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
def _kernel(
    x,
    planes,
    pairs,
    y,
    m,
    n,
    k,
    groups,
    stride_x,
    stride_p,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    SPLIT: tl.constexpr,
    DOT: tl.constexpr,
):
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    cols = tl.program_id(1) * BN + tl.arange(0, BN)
    part = tl.program_id(2)
    c = tl.arange(0, GROUP)
    shift = (c % 8)[:, None]
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for g in range(part, groups, SPLIT):
        column = g * GROUP + c
        a = tl.load(
            x + rows[:, None] * stride_x + column[None, :],
            mask=(rows < m)[:, None] & (column < k)[None, :],
            other=0.0,
        )
        q = tl.zeros((GROUP, BN), dtype=tl.int32)
        base = planes + cols[None, :].to(tl.int64) * (stride_p) + (column // 8)[:, None]
        for i in tl.static_range(BITS):
            raw = tl.load(base + i * n * stride_p, mask=(cols < n)[None, :], other=0).to(tl.int32)
            q += ((raw >> shift) & 1) << i
        w = (q - (1 << (BITS - 1))).to(tl.float32)
        dot = tl.dot(a.to(DOT), w.to(DOT), input_precision="ieee")
        pair = pairs + (g * n + cols) * 2
        scale = tl.load(pair, mask=cols < n, other=0.0).to(tl.float32)
        offset = tl.load(pair + 1, mask=cols < n, other=0.0).to(tl.float32)
        acc += dot * scale[None, :] + tl.sum(a.to(tl.float32), 1)[:, None] * offset[None, :]
    tl.store(
        y + part * m * n + rows[:, None] * n + cols[None, :],
        acc,
        mask=(rows < m)[:, None] & (cols < n)[None, :],
    )


def matmul(
    x: torch.Tensor, planes: torch.Tensor, pairs: torch.Tensor, config: dict[str, int] | None = None
) -> torch.Tensor:
    """``x`` [M, K], ``planes`` uint8 [bits, N, K / 8], ``pairs`` [K / group, N, 2] -> [M, N] in the dtype
    of ``x``.

    ``config``: BM, BN, split, num_warps, num_stages where the defaults are not wanted
    (``kernels.tuning``)."""
    (m, k), (bits, n, width), groups = x.shape, planes.shape, pairs.shape[0]
    chosen = {
        "BM": 16 if m <= 16 else 32 if m <= 32 else 64,
        "BN": 32 if m <= 16 else 64,
        "split": 0,
        "num_warps": 4,
        "num_stages": 3,
        **(config or {}),
    }
    bm, bn = chosen["BM"], chosen["BN"]
    tiles = triton.cdiv(m, bm) * triton.cdiv(n, bn)
    split = chosen["split"] or max(1, min(groups, 8, 256 // tiles))
    y = torch.empty(split, m, n, device=x.device, dtype=torch.float32)
    _kernel[(triton.cdiv(m, bm), triton.cdiv(n, bn), split)](
        x,
        planes,
        pairs,
        y,
        m,
        n,
        k,
        groups,
        x.stride(0),
        width,
        BITS=bits,
        GROUP=width * 8 // groups,
        BM=bm,
        BN=bn,
        SPLIT=split,
        DOT=operand(x.dtype),
        num_warps=chosen["num_warps"],
        num_stages=chosen["num_stages"],
    )
    return (y[0] if split == 1 else y.sum(0)).to(x.dtype)
