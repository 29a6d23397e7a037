"""CPU: torch's fused 4-bit kernel for few rows, blocked dequantization and products for many.

The packed layout is torch's own and depends on the processor's vector width: tiles of ``h`` rows, in
a tile one column after the other, ``h / 2`` bytes per column with one row in each nibble. Which row
lies in which nibble is found by packing known numbers once (:func:`layout`), never assumed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch.nn import functional as F

#: Up to this many rows the fused kernel is faster. Measured on a Xeon with AMX (one thread, torch
#: 2.13; benchmarks/kernels): at 1024x384, m = 16, 32, 128, 512: fused 177, 341, 1290, 5386 us,
#: blocked 683, 748, 835, 1230 us, bfloat16 91, 117, 168, 462 us; the same crossing at 2048x2048.
#: The fused kernel computes a row to the same bits however many rows there are (verified drafts need it).
FUSED_ROWS = 64
#: Weights dequantized at a time: 1 MiB of bfloat16 stays in the second-level cache.
BLOCK = 1 << 19


def pack(q: torch.Tensor) -> torch.Tensor:
    """uint8 [Np, Kp] with values 0..15 -> torch's packed bytes, uint8 [Np, Kp / 2]."""
    return torch.ops.aten._convert_weight_to_int4pack_for_cpu(q.int().contiguous(), 1)


def fused(x: torch.Tensor, packed: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """``x`` [M, Kp] -> [M, Np] in one pass over the packed bytes."""
    group = x.shape[1] // pairs.shape[0]
    return torch.ops.aten._weight_int4pack_mm_for_cpu(x, packed, group, pairs)


@functools.cache
def has_matrix_unit() -> bool:
    """Whether bfloat16 products run on oneDNN here (else the fused kernel wins at any size)."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def matmul(x: torch.Tensor, packed: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """``x`` [M, Kp] bfloat16, ``packed`` [Np, Kp / 2], ``pairs`` [groups, Np, 2] -> [M, Np]."""
    if x.shape[0] <= FUSED_ROWS or not has_matrix_unit():
        return fused(x, packed, pairs)
    return blocked(x, packed, pairs)


def blocked(x: torch.Tensor, packed: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """Some tiles of W at a time to the dtype of ``x``, multiplied; nothing larger is ever made."""
    out = x.new_empty(x.shape[0], packed.shape[0])
    for start, stop, block in dequantized(packed, pairs, x.dtype):
        out[:, start:stop] = torch.mm(x, block)
    return out


def dequantize(packed: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """The whole matrix, float32 [Np, Kp]."""
    return torch.cat([block.T for _, _, block in dequantized(packed, pairs, torch.float32)])


def dequantized(packed: torch.Tensor, pairs: torch.Tensor, dtype: torch.dtype
                ) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Yields (first row, end row, those rows of W transposed [Kp, rows]), rows in order."""
    n, k = packed.shape[0], packed.shape[1] * 2
    height = tile_height()
    step = max(1, BLOCK // (height * k)) * height
    full = n // height * height
    for start in range(0, full, step):
        stop = min(start + step, full)
        yield start, stop, _unpack(packed, pairs, start, stop, height, dtype)
    if full < n:
        yield full, n, _unpack(packed, pairs, full, n, n - full, dtype)


def _unpack(packed: torch.Tensor, pairs: torch.Tensor, start: int, stop: int, height: int,
            dtype: torch.dtype) -> torch.Tensor:
    k, groups, half, rows = packed.shape[1] * 2, pairs.shape[0], height // 2, stop - start
    raw = packed[start:stop].view(rows // height, k, half).transpose(0, 1)  # [K, T, h / 2]
    out = torch.empty(k, rows // height, height, dtype=dtype)
    out[..., :half] = raw & 15
    out[..., half:] = raw >> 4
    order = layout(height)
    if order is not None:
        out = out[..., order]
    # With the rows innermost, scale and offset are long contiguous vectors shared by a whole group.
    scale, offset = (t.contiguous() for t in pairs[:, None, start:stop].to(dtype).unbind(-1))
    grouped = out.view(groups, k // groups, rows)
    torch.addcmul(offset, grouped.sub_(8), scale, out=grouped)
    return out.view(k, rows)


@functools.cache
def tile_height() -> int:
    """Rows per tile of torch's packed layout on this processor."""
    q = torch.arange(4).expand(64, 4).contiguous()
    first = pack(q).flatten()
    run = int((first == first[0]).int().cumprod(0).sum())
    return 2 * run


@functools.cache
def layout(height: int) -> torch.Tensor | None:
    """For every row its nibble slot (low nibbles first, then high); None: they are in order."""
    rows = torch.arange(height)
    low, high = (_slots(digit[:, None].expand(height, 2)) for digit in (rows % 16, rows // 16))
    held = low + 16 * high
    return None if torch.equal(held, rows) else torch.argsort(held)


def _slots(q: torch.Tensor) -> torch.Tensor:
    """The numbers of one column as they lie in the packed bytes of a single tile."""
    column = pack(q).flatten()[: q.shape[0] // 2]
    return torch.cat((column & 15, column >> 4)).long()


def pad_columns(x: torch.Tensor, columns: int) -> torch.Tensor:
    """[M, K] -> [M, columns], zeros on the right."""
    return x if x.shape[1] == columns else F.pad(x, (0, columns - x.shape[1]))
