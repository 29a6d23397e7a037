"""Triton: decode attention with stream-K reduction: every program gets the same number of key tiles.

The tiles of all sequences and key heads are one line, cut into equal parts; a part may end inside one head
and begin
the next, so long and short sequences together leave no program idle (Sanovar et al. 2024, Lean Attention,
arXiv:2405.10480, section 4). Partial results of a head are joined by their maxima and sums, in a fixed
order. The query
heads that share a key head are rows of one tile.
"""

from __future__ import annotations

import math
import os

import torch
import triton
import triton.language as tl

#: Triton's interpreter (TRITON_INTERPRET=1) cannot multiply bfloat16: there operands are widened.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
#: Programs per multiprocessor: two hide each other's waits for memory.
WAVES = 2


def operand(dtype: torch.dtype) -> tl.dtype:
    """The type that ``tl.dot`` gets for activations of this dtype."""
    narrow = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
    return tl.float32 if INTERPRETED else narrow.get(dtype, tl.float32)


@triton.jit
def _parts(
    query,
    keys,
    values,
    lengths,
    starts,
    first,
    out,
    best,
    total,
    rows,
    queries,
    kv_heads,
    width,
    value_width,
    tiles,
    scaling,
    stride_kb,
    stride_kh,
    stride_vb,
    stride_vh,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
    BE: tl.constexpr,
    DOT: tl.constexpr,
):
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    at = (tiles * program // programs).to(tl.int32)
    stop = (tiles * (program + 1) // programs).to(tl.int32)
    head = tl.load(first + program)
    i = tl.arange(0, BM)
    d = tl.arange(0, BD)
    e = tl.arange(0, BE)
    n = tl.arange(0, BN)
    inside = (i < rows)[:, None]
    while at < stop:
        begin = tl.load(starts + head)
        end = tl.minimum(stop, tl.load(starts + head + 1))
        length = tl.load(lengths + head // kv_heads)
        a = tl.load(
            query + head * rows * width + i[:, None] * width + d[None, :],
            mask=inside & (d < width)[None, :],
            other=0.0,
        ).to(DOT)
        seen = length - queries + i % queries + 1
        k_base = (
            keys + (head // kv_heads).to(tl.int64) * stride_kb + (head % kv_heads).to(tl.int64) * stride_kh
        )
        v_base = (
            values
            + (head // kv_heads).to(tl.int64) * stride_vb
            + (head % kv_heads).to(tl.int64) * stride_vh
        )
        high = tl.full((BM,), -float("inf"), dtype=tl.float32)
        mass = tl.zeros((BM,), dtype=tl.float32)
        acc = tl.zeros((BM, BE), dtype=tl.float32)
        for tile in range(at - begin, end - begin):
            t = tile * BN + n
            real = t < length
            k = tl.load(
                k_base + t[None, :] * width + d[:, None],
                mask=real[None, :] & (d < width)[:, None],
                other=0.0,
            )
            scores = tl.dot(a, k.to(DOT), input_precision="ieee") * scaling
            scores = tl.where(real[None, :] & (t[None, :] < seen[:, None]), scores, -float("inf"))
            top = tl.maximum(high, tl.max(scores, 1))
            safe = tl.where(top == -float("inf"), 0.0, top)
            p = tl.exp(scores - safe[:, None])
            keep = tl.exp(high - safe)
            mass = mass * keep + tl.sum(p, 1)
            v = tl.load(
                v_base + t[:, None] * value_width + e[None, :],
                mask=real[:, None] & (e < value_width)[None, :],
                other=0.0,
            )
            acc = acc * keep[:, None] + tl.dot(p.to(DOT), v.to(DOT), input_precision="ieee")
            high = top
        # Along the line a new part begins with each program and with each head, so this number is new, too.
        slot = (program + head) * rows + i
        tl.store(best + slot, high, mask=i < rows)
        tl.store(total + slot, mass, mask=i < rows)
        tl.store(
            out + slot[:, None] * value_width + e[None, :], acc, mask=inside & (e < value_width)[None, :]
        )
        at = end
        head += 1


@triton.jit
def _join(out, best, total, starts, y, rows, tiles, programs, value_width, BE: tl.constexpr):
    head = tl.program_id(0)
    row = tl.program_id(1)
    e = tl.arange(0, BE)
    begin = tl.load(starts + head)
    end = tl.load(starts + head + 1)
    # The programs whose parts [tiles p / P, tiles (p + 1) / P) meet [begin, end).
    p = ((begin + 1) * programs - 1) // tiles
    last = (end * programs - 1) // tiles
    high = -float("inf")
    mass = 0.0
    acc = tl.zeros((BE,), dtype=tl.float32)
    while p <= last:
        slot = (p + head) * rows + row
        m = tl.load(best + slot)
        top = tl.maximum(high, m)
        safe = tl.where(top == -float("inf"), 0.0, top)
        old, new = tl.exp(high - safe), tl.exp(m - safe)
        mass = mass * old + tl.load(total + slot) * new
        acc = acc * old + tl.load(out + slot * value_width + e, mask=e < value_width, other=0.0) * new
        high = top
        p += 1
    tl.store(y + (head * rows + row) * value_width + e, acc / mass, mask=e < value_width)


def _power(n: int) -> int:
    return max(16, triton.next_power_of_2(n))


def programs_of(device: torch.device) -> int:
    """Programs that fill the device."""
    if device.type != "cuda":
        return 8
    return WAVES * torch.cuda.get_device_properties(device).multi_processor_count


def attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    lengths: torch.Tensor | None = None,
    scaling: float | None = None,
    programs: int | None = None,
) -> torch.Tensor:
    """``query`` [B, H, n, D] of each sequence's last n tokens; ``keys`` [B, K, S, D], ``values`` [B, K, S,
    E], each
    head's tokens contiguous; ``lengths`` int [B], n <= length <= S (None: S) -> [B, H, n, E]."""
    b, heads, queries, width = query.shape
    kv_heads, size, value_width = keys.shape[1], keys.shape[2], values.shape[3]
    rows, many, block = heads // kv_heads * queries, b * kv_heads, 64
    if lengths is None:
        lengths = torch.full((b,), size, dtype=torch.int32, device=query.device)
    lengths = lengths.to(device=query.device, dtype=torch.int32)
    each = ((lengths + block - 1) // block).repeat_interleave(kv_heads)
    starts = torch.zeros(many + 1, dtype=torch.int32, device=query.device)
    starts[1:] = each.cumsum(0)
    # An upper bound needs no copy from the device; parts behind the last tile are empty.
    tiles = int(starts[-1])
    count = min(programs or programs_of(query.device), tiles)
    begins = torch.arange(count, device=query.device, dtype=torch.int64) * tiles // count
    first = torch.searchsorted(starts, begins.int(), right=True).int() - 1
    folded = query.reshape(many, rows, width).contiguous()
    slots = count + many
    out = torch.empty(slots, rows, value_width, dtype=torch.float32, device=query.device)
    best, total = (torch.empty(slots, rows, dtype=torch.float32, device=query.device) for _ in range(2))
    _parts[(count,)](
        folded,
        keys,
        values,
        lengths,
        starts,
        first,
        out,
        best,
        total,
        rows,
        queries,
        kv_heads,
        width,
        value_width,
        tiles,
        scaling or 1 / math.sqrt(width),
        keys.stride(0),
        keys.stride(1),
        values.stride(0),
        values.stride(1),
        BM=_power(rows),
        BN=block,
        BD=_power(width),
        BE=_power(value_width),
        DOT=operand(query.dtype),
        num_warps=4,
    )
    y = torch.empty(many, rows, value_width, dtype=torch.float32, device=query.device)
    _join[(many, rows)](
        out, best, total, starts, y, rows, tiles, count, value_width, BE=_power(value_width)
    )
    return y.to(query.dtype).view(b, heads, queries, value_width)
