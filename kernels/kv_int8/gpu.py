"""Triton: quantize vectors; attend over int8 keys and values without writing them out as floats.

Decoding has few query rows, so the cache is split among programs (``SPLIT``) and the partial
results are joined by their maxima and sums (flash decoding). The query heads that share a key head
are rows of one tile, so the cache is read once for all of them.
"""

from __future__ import annotations

import math
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
def _quantize(x, q, scale, n, width, BR: tl.constexpr, BD: tl.constexpr):
    rows = tl.program_id(0) * BR + tl.arange(0, BR)
    cols = tl.arange(0, BD)
    inside = (rows < n)[:, None] & (cols < width)[None, :]
    at = rows[:, None] * width + cols[None, :]
    v = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    s = tl.maximum(tl.max(tl.abs(v), 1) / 127.0, 1e-30)
    # Round to bfloat16, ties to even, by bits: the interpreter's own cast cuts.
    bits = s.to(tl.int32, bitcast=True)
    s = ((bits + 0x7FFF + ((bits >> 16) & 1)) & -65536).to(tl.float32, bitcast=True)
    v = v / s[:, None]
    low = tl.floor(v)
    rest = v - low
    odd = low - 2.0 * tl.floor(low * 0.5)
    up = (rest > 0.5) | ((rest == 0.5) & (odd == 1.0))  # ties to even, as torch.round
    v = tl.minimum(tl.maximum(tl.where(up, low + 1.0, low), -127.0), 127.0)
    tl.store(q + at, v.to(tl.int8), mask=inside)
    tl.store(scale + rows, s.to(tl.bfloat16), mask=rows < n)


@triton.jit
def _attend(query, keys, key_scales, values, value_scales, out, best, total,
            rows, queries, length, width, value_width, scaling, stride_k, stride_v, stride_s,
            BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr,
            SPLIT: tl.constexpr, DOT: tl.constexpr):
    head = tl.program_id(0)
    part = tl.program_id(1)
    i = tl.arange(0, BM)
    d = tl.arange(0, BD)
    e = tl.arange(0, BE)
    row_inside = (i < rows)[:, None]
    a = tl.load(query + head * rows * width + i[:, None] * width + d[None, :],
                mask=row_inside & (d < width)[None, :], other=0.0).to(DOT)
    seen = length - queries + i % queries + 1
    high = tl.full((BM,), -float("inf"), dtype=tl.float32)
    mass = tl.zeros((BM,), dtype=tl.float32)
    acc = tl.zeros((BM, BE), dtype=tl.float32)
    span = tl.cdiv(tl.cdiv(length, SPLIT), BN) * BN
    for start in range(part * span, tl.minimum((part + 1) * span, length), BN):
        t = start + tl.arange(0, BN)
        inside = t < length
        k = tl.load(keys + head * stride_k + t[None, :] * width + d[:, None],
                    mask=inside[None, :] & (d < width)[:, None], other=0)
        ks = tl.load(key_scales + head * stride_s + t, mask=inside, other=0.0).to(tl.float32)
        scores = tl.dot(a, k.to(tl.float32).to(DOT), input_precision="ieee")
        scores *= (ks * scaling)[None, :]
        scores = tl.where(inside[None, :] & (t[None, :] < seen[:, None]), scores, -float("inf"))
        top = tl.maximum(high, tl.max(scores, 1))
        safe = tl.where(top == -float("inf"), 0.0, top)
        p = tl.exp(scores - safe[:, None])
        keep = tl.exp(high - safe)
        mass = mass * keep + tl.sum(p, 1)
        v = tl.load(values + head * stride_v + t[:, None] * value_width + e[None, :],
                    mask=inside[:, None] & (e < value_width)[None, :], other=0)
        vs = tl.load(value_scales + head * stride_s + t, mask=inside, other=0.0).to(tl.float32)
        acc = acc * keep[:, None] + tl.dot(
            (p * vs[None, :]).to(DOT), v.to(tl.float32).to(DOT), input_precision="ieee")
        high = top
    at = (part * tl.num_programs(0) + head) * rows + i
    tl.store(best + at, high, mask=i < rows)
    tl.store(total + at, mass, mask=i < rows)
    tl.store(out + at[:, None] * value_width + e[None, :], acc,
             mask=row_inside & (e < value_width)[None, :])


def _power(n: int) -> int:
    return max(16, triton.next_power_of_2(n))


def quantize(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As ``reference.quantize``."""
    x = x.contiguous()
    width = x.shape[-1]
    n = x.numel() // width
    q = torch.empty(x.shape, dtype=torch.int8, device=x.device)
    scale = torch.empty(*x.shape[:-1], 1, dtype=torch.bfloat16, device=x.device)
    _quantize[(triton.cdiv(n, 16),)](x, q, scale, n, width, BR=16, BD=_power(width))
    return q, scale


def attend(query: torch.Tensor, keys: torch.Tensor, key_scales: torch.Tensor,
           values: torch.Tensor, value_scales: torch.Tensor, scaling: float | None = None
           ) -> torch.Tensor:
    """As ``reference.attend``; ``keys`` and ``values`` may be the first S tokens of longer static
    buffers (a view), each head's tokens contiguous."""
    batch, heads, queries, width = query.shape
    kv_heads, length, value_width = keys.shape[1], keys.shape[2], values.shape[3]
    rows = heads // kv_heads * queries
    many = batch * kv_heads
    split = max(1, min(16, 256 // many, triton.cdiv(length, 128)))
    folded = query.reshape(many, rows, width).contiguous()
    out = torch.empty(split, many, rows, value_width, dtype=torch.float32, device=query.device)
    best, total = (torch.empty(split, many, rows, dtype=torch.float32, device=query.device)
                   for _ in range(2))
    _attend[(many, split)](
        folded, keys, key_scales, values, value_scales, out, best, total, rows, queries, length,
        width, value_width, scaling or 1 / math.sqrt(width), keys.stride(1), values.stride(1),
        key_scales.stride(1), BM=_power(rows), BN=64, BD=_power(width), BE=_power(value_width),
        SPLIT=split, DOT=operand(query.dtype), num_warps=4)
    top = best.amax(0)
    share = torch.exp(best - top)
    joined = (out * share[..., None]).sum(0) / (total * share).sum(0)[..., None]
    return joined.to(query.dtype).view(batch, heads, queries, value_width)
