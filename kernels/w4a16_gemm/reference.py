"""4 bits in groups, round to nearest: the definition and its float64 product.

Every ``group`` consecutive columns of a row share a scale s and an offset z, both bfloat16:
w = (q - 8) s + z with q in 0..15. Symmetric: z = 0 and s = max|w| / 7. Asymmetric: s = (max - min)
/ 15 and z = min + 8 s. Bits per weight: 4 + 32 / group. (Round to nearest as in GPTQ's baseline,
Frantar et al. 2022, arXiv:2210.17323, section 4; grouping as in its section "Additional tricks".)
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

LEVELS = 16
MIDDLE = 8
#: Rows are padded to this, because the packed kernels take rows in tiles.
ROW_TILE = 16


def padded(rows: int, columns: int, group: int) -> tuple[int, int]:
    """(rows, columns) as stored: rows to a multiple of 16, columns to whole groups."""
    return -(-rows // ROW_TILE) * ROW_TILE, -(-columns // group) * group


def quantize(weight: torch.Tensor, group: int, symmetric: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """[N, K] any float -> q uint8 [Np, Kp] and (scale, offset) bfloat16 [Kp / group, Np, 2].

    Scale and offset are rounded first; q is the nearest level of the rounded grid. Padding rows and
    columns hold zeros; a group that is partly padding is fitted to its real columns only."""
    n, k = weight.shape
    np_, kp = padded(n, k, group)
    real = F.pad(torch.ones(1, k, device=weight.device), (0, kp - k)).view(1, -1, group) > 0
    w = F.pad(weight.float(), (0, kp - k, 0, np_ - n)).view(np_, kp // group, group)
    scale, offset = _grid(w, real, symmetric)
    q = w.sub_(offset).div_(scale).add_(MIDDLE).round_().clamp_(0, LEVELS - 1).to(torch.uint8)
    pairs = torch.cat((scale, offset), -1).permute(1, 0, 2).contiguous()
    return q.view(np_, kp), pairs.to(torch.bfloat16)


def _grid(w: torch.Tensor, real: torch.Tensor, symmetric: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """(scale, offset) [Np, groups, 1] float32 holding bfloat16 values."""
    if symmetric:
        scale = w.abs().amax(-1, keepdim=True) / (MIDDLE - 1)
        return _bf16(scale.clamp_(min=1e-30)), torch.zeros_like(scale)
    low = w.masked_fill(~real, float("inf")).amin(-1, keepdim=True)
    high = w.masked_fill(~real, float("-inf")).amax(-1, keepdim=True)
    # A constant group must come back as its constant: then the offset alone carries it.
    scale = _bf16(((high - low) / (LEVELS - 1)).clamp_(min=1e-30))
    return scale, _bf16(low + MIDDLE * scale)


def _bf16(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.bfloat16).float()


def dequantize(q: torch.Tensor, pairs: torch.Tensor, dtype: torch.dtype = torch.float32
               ) -> torch.Tensor:
    """uint8 [Np, Kp] and [groups, Np, 2] -> [Np, Kp]."""
    np_, kp = q.shape
    groups = pairs.shape[0]
    scale, offset = pairs.to(dtype).permute(1, 0, 2).unsqueeze(-2).unbind(-1)
    return ((q.view(np_, groups, kp // groups).to(dtype) - MIDDLE) * scale + offset).view(np_, kp)


def matmul(x: torch.Tensor, q: torch.Tensor, pairs: torch.Tensor, rows: int) -> torch.Tensor:
    """``x`` [M, K] -> [M, rows] float64, padding dropped."""
    w = dequantize(q, pairs, torch.float64)
    return x.double() @ w[:rows, :x.shape[1]].T
