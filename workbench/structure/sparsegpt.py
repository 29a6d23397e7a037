"""One-shot pruning that is made up for: removed weights' errors are pushed onto the columns still to come.

Frantar, Alistarh 2023, arXiv:2301.00774, algorithm 1. With H the second moment of the layer's inputs and U
the upper Cholesky factor of its damped inverse, removing w_ij costs w_ij^2 / U_jj^2; a block of columns
loses its cheapest weights, then each column's error goes to the columns after it as in GPTQ.

Two things are done beyond the paper because models here are small. The authors' block of 128 columns is a
thirtieth of a matrix of theirs and a third of one here, and a block's weights are chosen before its errors
are known, so blocks are a share of the columns. And with the mask settled, each row's weights are set to
their least squares optimum, which the authors name as too expensive (section 3.1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from workbench.calibration.gptq import EXACT_COLUMNS, _factor, _refuse_not_finite, output_square
from workbench.structure.masks import largest

#: Work of exact refitting that is accepted per matrix: seconds on one core.
REFIT_FLOPS = 2e11


@dataclass(frozen=True)
class Pruned:
    """``weight`` [rows, columns] in the input's dtype, zero where ``kept`` (bool) is False; ``error``: the
    squared output error it leaves over the calibration tokens, by its definition tr[D H D^T]."""

    weight: torch.Tensor
    kept: torch.Tensor
    error: float
    damp: float


def prune(weight: torch.Tensor, hessian: torch.Tensor, sparsity: float, *, damp: float = 0.01,
          block: int = 0, kept: torch.Tensor | None = None, refit: bool = True) -> Pruned:
    """``weight`` [rows, columns] and ``hessian`` [columns, columns] (X^T X) -> exactly the wanted zeros.

    ``block`` columns lose their weights together (0: a share of the columns, at most 128). ``kept``: a mask
    that is given (magnitude, blocks); then only the rest is adjusted. ``refit``: see :func:`least_squares`.
    ``hessian`` is not changed. Raises ModelError where weights or statistics are not finite or cannot be
    inverted."""
    _refuse_not_finite(weight, hessian)
    rows, columns = weight.shape
    dtype = torch.float64 if columns <= EXACT_COLUMNS else torch.float32
    dead = hessian.diagonal() == 0
    upper, used = _factor(hessian, dead, None, damp, dtype)
    w = weight.detach().to(dtype, copy=True)
    block = block or min(128, max(4, columns // 24))
    mask = torch.ones(rows, columns, dtype=torch.bool) if kept is None else kept.clone()
    for start in range(0, columns, block):
        end = min(start + block, columns)
        part, factor = w[:, start:end], upper[start:end, start:end]
        if kept is None:
            mask[:, start:end] = _cheapest_out(part, factor, sparsity, rows, start, end)
        errors = _block(part, factor, mask[:, start:end])
        if end < columns:
            w[:, end:].addmm_(errors, upper[start:end, end:], alpha=-1)
    w.masked_fill_(~mask, 0)
    if refit and affordable(mask):
        damped = hessian.to(dtype, copy=True)
        damped.diagonal().add_(used * float(hessian.diagonal().mean()))
        w = least_squares(weight.detach().to(dtype), damped, mask)
    made = w.to(weight.dtype)
    return Pruned(made, mask, output_square(weight - made, hessian), used)


def affordable(mask: torch.Tensor) -> bool:
    """Whether :func:`least_squares` is worth its time."""
    return float(mask.sum(1).double().pow(3).sum()) / 3 < REFIT_FLOPS


def least_squares(weight: torch.Tensor, hessian: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """The best values for the places ``kept``: each row minimises d H d^T, d its difference to ``weight``.

    All of one float dtype; ``hessian`` positive definite. A row that keeps nothing stays zero."""
    made, wanted = torch.zeros_like(weight), weight @ hessian
    for row, places in enumerate(kept):
        at = places.nonzero().squeeze(1)
        lower, info = torch.linalg.cholesky_ex(hessian[at[:, None], at])
        if int(info) or not len(at):
            made[row] = weight[row].masked_fill(~places, 0)
        else:
            made[row, at] = torch.cholesky_solve(wanted[row, at, None], lower).squeeze(1)
    return made


def _cheapest_out(part: torch.Tensor, factor: torch.Tensor, sparsity: float, rows: int, start: int,
                  end: int) -> torch.Tensor:
    """The block's mask. Counts round over the columns so far, so that they add up exactly."""
    scores = part.square() / factor.diagonal().square()
    out = round(sparsity * rows * end) - round(sparsity * rows * start)
    return largest(scores, out / scores.numel())


def _block(part: torch.Tensor, factor: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Zero what is masked, column by column, in place; the errors [rows, block]."""
    errors = torch.zeros_like(part)
    for i in range(part.shape[1]):
        lost = part[:, i].masked_fill(mask[:, i], 0)
        errors[:, i] = lost / factor[i, i]
        part[:, i] -= lost
        if i + 1 < part.shape[1]:
            part[:, i + 1:].addr_(errors[:, i], factor[i, i + 1:], alpha=-1)
    return errors
