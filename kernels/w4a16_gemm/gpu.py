"""Triton: one group of columns per step, both nibbles of a byte used where it is loaded.

Layout (``nibbles.py``): row-major bytes [Np, Kp / 2]; byte j of a group holds column j in its low and
column j + group / 2 in its high nibble, so both halves of the activations are read contiguously.
Within a group the products are of exact small integers; scale and offset are applied to the group's
partial sum in float32: y += s (x_g . (q - 8)) + z sum(x_g). Few rows leave most of a GPU idle, so
the groups are also split over programs (``SPLIT``), summed afterwards in a fixed order.
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
    packed,
    pairs,
    y,
    m,
    n,
    k,
    groups,
    stride_x,
    stride_p,
    GROUP: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    SPLIT: tl.constexpr,
    DOT: tl.constexpr,
):
    HALF: tl.constexpr = GROUP // 2
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    cols = tl.program_id(1) * BN + tl.arange(0, BN)
    part = tl.program_id(2)
    half = tl.arange(0, HALF)
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for g in range(part, groups, SPLIT):
        low, high = g * GROUP + half, g * GROUP + HALF + half
        base = x + rows[:, None] * stride_x
        a = tl.load(base + low[None, :], mask=(rows < m)[:, None] & (low < k)[None, :], other=0.0)
        b = tl.load(base + high[None, :], mask=(rows < m)[:, None] & (high < k)[None, :], other=0.0)
        w = tl.load(
            packed + cols[None, :] * stride_p + (g * HALF + half)[:, None],
            mask=(cols < n)[None, :],
            other=0,
        )
        dot = tl.dot(a.to(DOT), ((w & 15).to(tl.float32) - 8.0).to(DOT), input_precision="ieee")
        dot = tl.dot(b.to(DOT), ((w >> 4).to(tl.float32) - 8.0).to(DOT), dot, input_precision="ieee")
        pair = pairs + (g * n + cols) * 2
        scale = tl.load(pair, mask=cols < n, other=0.0).to(tl.float32)
        offset = tl.load(pair + 1, mask=cols < n, other=0.0).to(tl.float32)
        total = tl.sum(a.to(tl.float32), 1) + tl.sum(b.to(tl.float32), 1)
        acc += dot * scale[None, :] + total[:, None] * offset[None, :]
    tl.store(
        y + part * m * n + rows[:, None] * n + cols[None, :],
        acc,
        mask=(rows < m)[:, None] & (cols < n)[None, :],
    )


def matmul(
    x: torch.Tensor, packed: torch.Tensor, pairs: torch.Tensor, config: dict[str, int] | None = None
) -> torch.Tensor:
    """``x`` [M, K <= Kp] bfloat16, ``packed`` [Np, Kp / 2], ``pairs`` [groups, Np, 2] -> [M, Np].

    ``config``: BM, BN, split (0: by size), num_warps, num_stages; None: as measured on this GPU."""
    (m, k), n, groups = x.shape, packed.shape[0], pairs.shape[0]
    default = {
        "BM": 16 if m <= 16 else 32 if m <= 32 else 64,
        "BN": 32 if m <= 16 else 64,
        "split": 0,
        "num_warps": 4,
        "num_stages": 3,
    }
    chosen = {**default, **config} if config else tuned(m, n, k, groups, x.device, default)
    bm, bn = chosen["BM"], chosen["BN"]
    tiles = triton.cdiv(m, bm) * triton.cdiv(n, bn)
    split = chosen["split"] or max(1, min(groups, 8, 256 // tiles))  # enough programs for a large GPU
    y = torch.empty(split, m, n, device=x.device, dtype=torch.float32)
    _kernel[(triton.cdiv(m, bm), triton.cdiv(n, bn), split)](
        x,
        packed,
        pairs,
        y,
        m,
        n,
        k,
        groups,
        x.stride(0),
        packed.stride(0),
        GROUP=packed.shape[1] * 2 // groups,
        BM=bm,
        BN=bn,
        SPLIT=split,
        DOT=operand(x.dtype),
        num_warps=chosen["num_warps"],
        num_stages=chosen["num_stages"],
    )
    return (y[0] if split == 1 else y.sum(0)).to(x.dtype)


def tuned(
    m: int, n: int, k: int, groups: int, device: torch.device, default: dict[str, int]
) -> dict[str, int]:
    """What was measured on this GPU for this shape, else ``default``."""
    if device.type != "cuda":
        return default
    from workbench.kernels import tuning

    return tuning.pick(
        "w4a16_gemm", tuning.key_of(m, n, k, group=k // groups), torch.cuda.get_device_name(device), default
    )
