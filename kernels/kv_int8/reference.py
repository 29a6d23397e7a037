"""The definition: per vector x [D], s = max|x| / 127 rounded to bfloat16, q = round(x / s).

Symmetric, per token and per head, so a token is quantized once when it arrives and never touched
again. |x - q s| <= s / 2, plus at most half a step where rounding s cut the largest element.
"""

from __future__ import annotations

import math

import torch

MAX = 127
TINY = 1e-30  # an all-zero vector must not divide by zero


def quantize(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[..., D] any float -> int8 [..., D] and bfloat16 scales [..., 1]."""
    x = x.float()
    scale = (x.abs().amax(-1, keepdim=True) / MAX).clamp_(min=TINY).bfloat16()
    return torch.round(x / scale).clamp_(-MAX, MAX).to(torch.int8), scale


def dequantize(q: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype = torch.float32
               ) -> torch.Tensor:
    """Inverse of :func:`quantize`, up to rounding."""
    return q.to(dtype) * scale.to(dtype)


def attend(query: torch.Tensor, keys: torch.Tensor, key_scales: torch.Tensor,
           values: torch.Tensor, value_scales: torch.Tensor, scaling: float | None = None
           ) -> torch.Tensor:
    """``query`` [B, H, n, D]; ``keys`` int8 [B, K, S, D], ``values`` [B, K, S, E] with scales
    [B, K, S, 1]; H a multiple of K -> [B, H, n, E] float64.

    Query i of n is token S - n + i and sees every token up to itself."""
    rows, width = query.shape[2], query.shape[3]
    groups = query.shape[1] // keys.shape[1]
    k = dequantize(keys, key_scales, torch.float64).repeat_interleave(groups, 1)
    v = dequantize(values, value_scales, torch.float64).repeat_interleave(groups, 1)
    scores = query.double() @ k.mT * (scaling or 1 / math.sqrt(width))
    hidden = torch.ones(rows, k.shape[2]).tril(k.shape[2] - rows) == 0
    return torch.softmax(scores.masked_fill(hidden.to(scores.device), -math.inf), -1) @ v
