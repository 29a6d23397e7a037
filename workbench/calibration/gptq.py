"""GPTQ: rounding one column at a time, each column's error pushed onto those not yet rounded.

Frantar et al. 2022, arXiv:2210.17323, algorithm 1: minimise tr[(W - Q) H (W - Q)^T] with H the second
moment of the layer's inputs. U is the upper Cholesky factor of the damped H's inverse; rounding column i
leaves e = (w_i - q_i) / U_ii, and the columns after it move by -e U_i. Blocks of columns keep their
errors and update the rest in one product. Then the sum of e^2 is tr[(W - Q) H (W - Q)^T] exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from workbench.calibration.grid import Grid
from workbench.calibration.grids import codes, dequantize, fit, fit_all, pair_dtype, values
from workbench.errors import ModelError

#: Factor between attempts when the damped matrix is not positive definite, and how many attempts.
ESCALATE, ATTEMPTS = 10.0, 5
#: Up to this many columns everything is computed in float64; above it in float32, as the authors do.
EXACT_COLUMNS = 2048
#: Rows whose errors are multiplied out at a time.
ROWS = 256


@dataclass(frozen=True)
class Rounded:
    """``q`` uint8 [rows, columns], ``pairs`` [groups, rows, 2]; ``error`` is the sum of e^2, in
    units of H times weight squared; ``damp`` what was needed in the end; ``dead``: inputs that are
    always zero."""

    q: torch.Tensor
    pairs: torch.Tensor
    error: float
    damp: float
    dead: int


def solve(weight: torch.Tensor, hessian: torch.Tensor, grid: Grid, *, act_order: bool = True,
          damp: float = 0.01, block: int = 128) -> Rounded:
    """``weight`` [rows, columns] and ``hessian`` [columns, columns] -> codes on ``grid``.

    ``act_order`` rounds columns by falling diagonal of H, with every group's grid fitted beforehand, so
    that the stored order stays the model's; without it a group is fitted when it is reached. ``damp`` is
    the share of the mean diagonal added to the diagonal. ``hessian`` is not changed. Raises ModelError
    where weights or statistics are not finite, SettingsError where the group does not divide."""
    dtype = torch.float64 if weight.shape[1] <= EXACT_COLUMNS else torch.float32
    _refuse_not_finite(weight, hessian)
    width = grid.width(weight.shape[1])
    diagonal = hessian.diagonal()
    dead = diagonal == 0
    order = torch.argsort(diagonal, descending=True, stable=True) if act_order else None
    upper, used = _factor(hessian, dead, order, damp, dtype)
    pairs = fit_all(_alive(weight, dead), grid, dtype) if act_order else None
    w = _alive(weight, dead).t()  # [columns, rows]: a column is one run of memory
    w = (w if order is None else w[order]).to(dtype).contiguous()
    q, pairs, error = _columns(w, upper, grid, width, pairs, order, block)
    if order is not None:
        back = torch.empty_like(q)
        back[order] = q
        q = back
    return Rounded(q.t().contiguous(), pairs.to(pair_dtype(grid)), error, used, int(dead.sum()))


def _alive(weight: torch.Tensor, dead: torch.Tensor) -> torch.Tensor:
    return weight.masked_fill(dead, 0) if bool(dead.any()) else weight


def _refuse_not_finite(w: torch.Tensor, hessian: torch.Tensor) -> None:
    if not torch.isfinite(w).all():
        raise ModelError("a weight matrix holds NaN or infinite values; the checkpoint is damaged, so "
                         "copy or download it again")
    if not torch.isfinite(hessian).all():
        raise ModelError("the layer's inputs on the calibration text are not finite; use other text, or "
                         "check the checkpoint")


def _factor(hessian: torch.Tensor, dead: torch.Tensor, order: torch.Tensor | None, damp: float,
            dtype: torch.dtype) -> tuple[torch.Tensor, float]:
    """Upper Cholesky factor of the damped inverse, and the damping that made it possible.

    At most two matrices of H's size live at a time beside H."""
    mean = float(hessian.diagonal().double().mean()) or 1.0
    for attempt in range(ATTEMPTS):
        used = damp * ESCALATE**attempt
        h = hessian.to(dtype, copy=True) if order is None else hessian[order[:, None], order].to(dtype)
        gone = dead if order is None else dead[order]
        h.diagonal()[gone] = mean
        h.diagonal().add_(used * mean)
        lower, info = torch.linalg.cholesky_ex(h)
        del h
        if int(info) == 0:
            inverse = torch.cholesky_inverse(lower)
            del lower
            upper, info = torch.linalg.cholesky_ex(inverse, upper=True)
            if int(info) == 0 and bool(torch.isfinite(upper.diagonal()).all()):
                return upper, used
    raise ModelError("the calibration statistics of a layer cannot be inverted even when strongly damped; "
                     "give more or more varied calibration text")


def _columns(w: torch.Tensor, upper: torch.Tensor, grid: Grid, width: int, pairs: torch.Tensor | None,
             order: torch.Tensor | None, block: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """The loop of algorithm 1 over ``w`` [columns, rows], which is used up.

    A group that has not been fitted (``pairs`` None) is fitted when its first column is reached."""
    columns, rows = w.shape
    found = w.new_zeros(columns // width, rows, 2) if pairs is None else pairs
    q = torch.empty(columns, rows, dtype=torch.uint8)
    total = w.new_zeros((), dtype=torch.float64)
    places = range(columns) if order is None else order.tolist()
    for start in range(0, columns, block):
        end = min(start + block, columns)
        errors = torch.empty(end - start, rows, dtype=w.dtype)
        for i in range(start, end):
            group = places[i] // width
            if pairs is None and i % width == 0:
                found[group] = fit(_reached(w, upper, errors, start, i, end, width), grid)
            scale, offset = found[group].unbind(1)
            level = codes(w[i], scale, offset, grid)
            error = (w[i] - values(level, scale, offset, grid)) / upper[i, i]
            q[i] = level.to(torch.uint8)
            errors[i - start] = error
            if i + 1 < end:
                w[i + 1:end].addr_(upper[i, i + 1:end], error, alpha=-1)
        if end < columns:
            w[end:].addmm_(upper[start:end, end:].t(), errors, alpha=-1)
        total += errors.double().square().sum()
    return q, found, float(total)


def _reached(w: torch.Tensor, upper: torch.Tensor, errors: torch.Tensor, start: int, i: int, end: int,
             width: int) -> torch.Tensor:
    """The group that begins at column ``i``, [rows, width], as all earlier errors leave it.

    Columns beyond the block have not had this block's errors yet; a copy of them gets them here, so
    that the result does not depend on the block size."""
    group = w[i:i + width]
    if i + width > end and i > start:
        group = group.clone()
        group[end - i:].addmm_(upper[start:i, end:i + width].t(), errors[:i - start], alpha=-1)
    return group.t()


def proxy_error(weight: torch.Tensor, q: torch.Tensor, pairs: torch.Tensor, bits: int,
                hessian: torch.Tensor) -> float:
    """tr[(W - Q) H (W - Q)^T], summed in float64: the squared output error over the calibration text.

    Rows go by blocks, so that little is held beside the arguments."""
    dtype = torch.float64 if weight.shape[1] <= EXACT_COLUMNS else torch.float32
    found, h = 0.0, hessian.to(dtype)
    for rows in torch.arange(len(weight)).split(ROWS):
        at = slice(int(rows[0]), int(rows[-1]) + 1)
        delta = weight[at].to(dtype) - dequantize(q[at], pairs[:, at], bits, dtype)
        found += float(((delta @ h) * delta).double().sum())
    return found


def output_square(weight: torch.Tensor, hessian: torch.Tensor) -> float:
    """tr[W H W^T]: the squared output itself."""
    dtype = torch.float64 if weight.shape[1] <= EXACT_COLUMNS else torch.float32
    h = hessian.to(dtype)
    return sum(float(((w.to(dtype) @ h) * w.to(dtype)).double().sum()) for w in weight.split(ROWS))
