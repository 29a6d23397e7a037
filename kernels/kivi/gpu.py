"""Triton: pack keys and values; attend over packed tokens and the full-precision rest in one pass.

One program reads one part of one key head's tokens for all query heads that share it (rows of one tile), a
group of
tokens at a time, unpacked in registers (``packing.py`` has the order). The parts are joined by their maxima
and sums.
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
def _bf16(v):
    # Round to bfloat16, ties to even, by bits: the interpreter's own cast cuts.
    bits = v.to(tl.int32, bitcast=True)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & -65536).to(tl.float32, bitcast=True)


@triton.jit
def _codes(x, z, s, TOP: tl.constexpr):
    v = tl.where(s > 0, (x - z) / tl.where(s > 0, s, 1.0), 0.0)
    low = tl.floor(v)
    rest = v - low
    odd = low - 2.0 * tl.floor(low * 0.5)
    v = tl.where((rest > 0.5) | ((rest == 0.5) & (odd == 1.0)), low + 1.0, low)
    return tl.minimum(tl.maximum(v, 0.0), TOP).to(tl.int32)


@triton.jit
def _pack(
    x,
    packed,
    pairs,
    stride_group,
    stride_in,
    stride_out,
    stride_pair,
    stride_part,
    runs,
    run_stride,
    run_out,
    run_pair,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    BR: tl.constexpr,
):
    # One group of GROUP numbers for BR runs: keys (a run is a channel) or values (a run is a token's group).
    FIELDS: tl.constexpr = 8 // BITS
    BYTES: tl.constexpr = GROUP // FIELDS
    group = tl.program_id(0)
    run = tl.program_id(1) * BR + tl.arange(0, BR)
    inside = run < runs
    j = tl.arange(0, BYTES)
    base = x + group * stride_group + run[None, :] * run_stride
    low = tl.full((BR,), float("inf"), dtype=tl.float32)
    high = tl.full((BR,), -float("inf"), dtype=tl.float32)
    for f in tl.static_range(FIELDS):
        v = tl.load(base + (f * BYTES + j)[:, None] * stride_in, mask=inside[None, :], other=0.0).to(
            tl.float32
        )
        low = tl.minimum(low, tl.min(v, 0))
        high = tl.maximum(high, tl.max(v, 0))
    z = _bf16(low)
    s = _bf16(tl.maximum(high - z, 0.0) / (2.0**BITS - 1.0))
    out = tl.zeros((BYTES, BR), dtype=tl.int32)
    for f in tl.static_range(FIELDS):
        v = tl.load(base + (f * BYTES + j)[:, None] * stride_in, mask=inside[None, :], other=0.0).to(
            tl.float32
        )
        out = out | (_codes(v, z[None, :], s[None, :], 2.0**BITS - 1.0) << (BITS * f))
    tl.store(
        packed + group * BYTES * stride_out + j[:, None] * stride_out + run[None, :] * run_out,
        out.to(tl.uint8),
        mask=inside[None, :],
    )
    at = pairs + group * stride_pair + run * run_pair
    tl.store(at, s.to(tl.bfloat16), mask=inside)
    tl.store(at + stride_part, z.to(tl.bfloat16), mask=inside)


@triton.jit
def _attend(
    query,
    keys,
    key_pairs,
    values,
    value_pairs,
    key_rest,
    value_rest,
    out,
    best,
    total,
    rows,
    queries,
    packed,
    length,
    width,
    scaling,
    stride_k,
    stride_kp,
    stride_v,
    stride_vp,
    stride_r,
    stride_vr,
    BITS: tl.constexpr,
    VBITS: tl.constexpr,
    GROUP: tl.constexpr,
    VGROUP: tl.constexpr,
    BM: tl.constexpr,
    BD: tl.constexpr,
    SPLIT: tl.constexpr,
    DOT: tl.constexpr,
):
    BYTES: tl.constexpr = GROUP * BITS // 8
    VBYTES: tl.constexpr = BD * VBITS // 8
    head = tl.program_id(0)
    part = tl.program_id(1)
    i = tl.arange(0, BM)
    d = tl.arange(0, BD)
    n = tl.arange(0, GROUP)
    inside = (i < rows)[:, None]
    a = tl.load(query + head * rows * width + i[:, None] * width + d[None, :], mask=inside, other=0.0).to(
        DOT
    )
    seen = length - queries + i % queries + 1
    high = tl.full((BM,), -float("inf"), dtype=tl.float32)
    mass = tl.zeros((BM,), dtype=tl.float32)
    acc = tl.zeros((BM, BD), dtype=tl.float32)
    groups = packed // GROUP
    rest = tl.cdiv(length - packed, GROUP)
    for g in range(part, groups + rest, SPLIT):  # packed groups, then blocks of the rest
        t = g * GROUP + n
        if g < groups:
            # A byte is asked for once per number in it; the first-level cache answers all but the first.
            raw = tl.load(
                keys + head * stride_k + (g * BYTES + n % BYTES)[None, :] * width + d[:, None]
            ).to(tl.int32)
            pair = key_pairs + head * stride_kp + g * 2 * width + d
            q = ((raw >> ((n // BYTES) * BITS)[None, :]) & (2**BITS - 1)).to(tl.float32)
            k = (
                q * tl.load(pair).to(tl.float32)[:, None] + tl.load(pair + width).to(tl.float32)[:, None]
            ).to(DOT)
            raw_v = tl.load(values + head * stride_v + t[:, None] * VBYTES + (d % VBYTES)[None, :]).to(
                tl.int32
            )
            pair_v = (
                value_pairs + head * stride_vp + (t[:, None] * (BD // VGROUP) + (d // VGROUP)[None, :]) * 2
            )
            q_v = ((raw_v >> ((d // VBYTES) * VBITS)[None, :]) & (2**VBITS - 1)).to(tl.float32)
            v = (q_v * tl.load(pair_v).to(tl.float32) + tl.load(pair_v + 1).to(tl.float32)).to(DOT)
        else:
            real = t < length
            k = tl.load(
                key_rest + head * stride_r + (t - packed)[None, :] * width + d[:, None],
                mask=real[None, :],
                other=0.0,
            ).to(DOT)
            v = tl.load(
                value_rest + head * stride_vr + (t - packed)[:, None] * width + d[None, :],
                mask=real[:, None],
                other=0.0,
            ).to(DOT)
        scores = tl.dot(a, k, input_precision="ieee") * scaling
        scores = tl.where((t[None, :] < seen[:, None]) & (t < length)[None, :], scores, -float("inf"))
        top = tl.maximum(high, tl.max(scores, 1))
        safe = tl.where(top == -float("inf"), 0.0, top)
        p = tl.exp(scores - safe[:, None])
        keep = tl.exp(high - safe)
        mass = mass * keep + tl.sum(p, 1)
        acc = acc * keep[:, None] + tl.dot(p.to(DOT), v, input_precision="ieee")
        high = top
    at = (part * tl.num_programs(0) + head) * rows + i
    tl.store(best + at, high, mask=i < rows)
    tl.store(total + at, mass, mask=i < rows)
    tl.store(out + at[:, None] * width + d[None, :], acc, mask=inside)


def pack_keys(keys: torch.Tensor, bits: int, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    """As ``cpu.pack_keys``."""
    b, heads, n, d = keys.shape
    keys = keys.contiguous()
    many, width = b * heads * n // group, group * bits // 8
    packed = torch.empty(b, heads, n // group, width, d, dtype=torch.uint8, device=keys.device)
    pairs = torch.empty(b, heads, n // group, 2, d, dtype=torch.bfloat16, device=keys.device)
    block = 16
    _pack[(many, triton.cdiv(d, block))](
        keys, packed, pairs, group * d, d, d, 2 * d, d, d, 1, 1, 1, BITS=bits, GROUP=group, BR=block
    )
    return packed, pairs


def attend(
    query: torch.Tensor,
    keys: tuple[torch.Tensor, torch.Tensor],
    values: tuple[torch.Tensor, torch.Tensor],
    key_rest: torch.Tensor,
    value_rest: torch.Tensor,
    bits: int,
    value_bits: int,
    group: int,
    scaling: float | None = None,
) -> torch.Tensor:
    """``keys`` and ``values`` as ``cpu.pack_keys`` and ``cpu.pack_values`` give them, for the same S tokens
    (a
    multiple of ``group``); the rests [B, K, R, D] follow. Head width D a power of two, at least 16."""
    b, heads, queries, width = query.shape
    kv_heads = key_rest.shape[1]
    packed = keys[0].shape[2] * group
    length, rows, many = packed + key_rest.shape[2], heads // kv_heads * queries, b * kv_heads
    split = max(1, min(16, 256 // many, triton.cdiv(length, group)))
    folded = query.reshape(many, rows, width).contiguous()
    stored = [t.contiguous() for t in (*keys, *values, key_rest, value_rest)]
    out = torch.empty(split, many, rows, width, dtype=torch.float32, device=query.device)
    best, total = (
        torch.empty(split, many, rows, dtype=torch.float32, device=query.device) for _ in range(2)
    )
    _attend[(many, split)](
        folded,
        *stored,
        out,
        best,
        total,
        rows,
        queries,
        packed,
        length,
        width,
        scaling or 1 / math.sqrt(width),
        *(t[0, 0].numel() for t in stored),
        BITS=bits,
        VBITS=value_bits,
        GROUP=group,
        VGROUP=width // values[1].shape[3],
        BM=max(16, triton.next_power_of_2(rows)),
        BD=width,
        SPLIT=split,
        DOT=operand(query.dtype),
        num_warps=4,
    )
    top = best.amax(0)
    share = torch.exp(best - top)
    joined = (out * share[..., None]).sum(0) / (total * share).sum(0)[..., None]
    return joined.to(query.dtype).view(b, heads, queries, width)
