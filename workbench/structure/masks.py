"""Which weights stay: exact counts, so that bytes are known before anything is pruned."""

from __future__ import annotations

import torch

from workbench.errors import ModelError


def kept_count(numbers: int, sparsity: float) -> int:
    """Weights that stay of ``numbers``."""
    return numbers - round(sparsity * numbers)


def largest(scores: torch.Tensor, sparsity: float) -> torch.Tensor:
    """bool like ``scores``: exactly :func:`kept_count` of them, those with the highest scores.

    Ties go to the earlier place. Raises ModelError where a score is not finite."""
    if not torch.isfinite(scores).all():
        raise ModelError("a weight matrix holds NaN or infinite values; the checkpoint is damaged, so copy "
                         "or download it again")
    flat = scores.reshape(-1)
    kept = torch.zeros(flat.numel(), dtype=torch.bool, device=scores.device)
    order = torch.argsort(flat, descending=True, stable=True)
    kept[order[:kept_count(flat.numel(), sparsity)]] = True
    return kept.view(scores.shape)


def magnitude(weight: torch.Tensor, sparsity: float) -> torch.Tensor:
    """The largest weights of a matrix stay: bool [rows, columns]."""
    return largest(weight.detach().float().abs(), sparsity)
