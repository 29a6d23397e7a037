"""Integer grids in groups of columns: w = (q - 2^(b-1)) s + z, q in 0 .. 2^b - 1, s and z bfloat16.

The same layout as the int4 module and the bit planes: pairs [groups, rows, 2] of (scale, offset).
Asymmetric: from the group's minimum to its maximum. Symmetric: z = 0, s = max|w| / (2^(b-1) - 1).
``integer``: asymmetric with a whole zero point, z = (2^(b-1) - zero) s, zero in 0 .. 2^b - 1, as the file
formats of other engines store it; the pairs are then float32, because z needs more than bfloat16's bits.
"""

from __future__ import annotations

import torch

from workbench.calibration.grid import Grid

#: Shrink factors that the clipping search tries, and the exponent of its error (GPTQ's own choices,
#: Frantar et al. 2022, the authors' code: 80 % of 100 steps, |error|^2.4).
CLIP_STEPS, CLIP_RANGE, CLIP_NORM = 40, 0.8, 2.4


#: With whole zero points no scale is smaller, so that every scale is exact in float16 too.
LEAST_SCALE = 2.0**-14


def pair_dtype(grid: Grid) -> torch.dtype:
    """Of stored pairs: whole zero points need more bits than bfloat16 has."""
    return torch.float32 if grid.integer and not grid.symmetric else torch.bfloat16


def fit(w: torch.Tensor, grid: Grid) -> torch.Tensor:
    """``w`` [rows, group] -> (scale, offset) [rows, 2] in w's dtype, holding bfloat16 values."""
    pair = _fit(w, grid)
    if not grid.clip:
        return pair
    best, found = _error(w, pair, grid), pair
    for i in range(1, int(CLIP_STEPS * CLIP_RANGE)):
        pair = _fit(w * (1 - i / CLIP_STEPS), grid)
        error = _error(w, pair, grid)
        better = error < best
        best = torch.where(better, error, best)
        found = torch.where(better[:, None], pair, found)
    return found


def _fit(w: torch.Tensor, grid: Grid) -> torch.Tensor:
    if grid.symmetric:
        scale = w.abs().amax(1) / max(1, grid.middle - 1)
        return torch.stack((_bf16(scale.clamp_(min=1e-30)), torch.zeros_like(scale)), 1)
    low, high = w.amin(1), w.amax(1)
    if grid.integer:
        return _whole(low.clamp(max=0), high.clamp(min=0), grid)
    scale = _bf16(((high - low) / grid.top).clamp_(min=1e-30))
    return torch.stack((scale, _bf16(low + grid.middle * scale)), 1)


def _whole(low: torch.Tensor, high: torch.Tensor, grid: Grid) -> torch.Tensor:
    scale = _bf16(((high - low) / grid.top).clamp_(min=LEAST_SCALE))
    zero = (-low / scale).round_().clamp_(0, grid.top)
    return torch.stack((scale, (grid.middle - zero) * scale), 1)


def _bf16(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.bfloat16).to(x.dtype)


def _error(w: torch.Tensor, pair: torch.Tensor, grid: Grid) -> torch.Tensor:
    q = codes(w, pair[:, :1], pair[:, 1:], grid)
    return (values(q, pair[:, :1], pair[:, 1:], grid) - w).abs().pow(CLIP_NORM).sum(1)


def codes(w: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Nearest level of each weight, in w's dtype."""
    return ((w - offset) / scale + grid.middle).round_().clamp_(grid.lowest, grid.top)


def values(q: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor, grid: Grid) -> torch.Tensor:
    return (q - grid.middle) * scale + offset


def fit_all(w: torch.Tensor, grid: Grid, dtype: torch.dtype | None = None) -> torch.Tensor:
    """``w`` [rows, columns] -> pairs [groups, rows, 2] in ``dtype`` (default: w's)."""
    width = grid.width(w.shape[1])
    return torch.stack([fit(part.to(dtype or w.dtype), grid) for part in w.split(width, 1)])


def round_to_nearest(w: torch.Tensor, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
    """``w`` [rows, columns] -> q uint8 [rows, columns], pairs [groups, rows, 2]."""
    dtype = torch.float64 if w.dtype == torch.float64 else torch.float32
    pairs = fit_all(w, grid, dtype)
    width = grid.width(w.shape[1])
    q = torch.empty(w.shape, dtype=torch.uint8, device=w.device)
    for i, (part, pair) in enumerate(zip(w.split(width, 1), pairs, strict=True)):
        q[:, i * width:(i + 1) * width] = codes(part.to(dtype), pair[:, :1], pair[:, 1:], grid)
    return q, pairs.to(pair_dtype(grid))


def dequantize(q: torch.Tensor, pairs: torch.Tensor, bits: int, dtype: torch.dtype = torch.float32
               ) -> torch.Tensor:
    """q [rows, columns], pairs [groups, rows, 2] -> [rows, columns]."""
    rows, columns = q.shape
    scale, offset = pairs.to(dtype).permute(1, 0, 2).unsqueeze(-2).unbind(-1)
    parts = q.view(rows, pairs.shape[0], -1).to(dtype)
    return ((parts - (1 << (bits - 1))) * scale + offset).view(rows, columns)
