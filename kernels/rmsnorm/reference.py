"""The definition: r' = r + x, y = w * r' / sqrt(mean(r'^2) + eps), in float64.

Zhang and Sennrich 2019, arXiv:1910.07467, equation 4; the fused residual add is the order in which
Llama-style blocks use it.
"""

from __future__ import annotations

import torch


def norm(x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None = None
         ) -> tuple[torch.Tensor, torch.Tensor]:
    """``x``, ``residual`` [..., D], ``weight`` [D] -> (normalized, new residual), float64 [..., D]."""
    stream = x.double() if residual is None else residual.double() + x.double()
    scale = torch.rsqrt(stream.square().mean(-1, keepdim=True) + eps)
    return stream * scale * weight.double(), stream
