"""Int8 per output row, symmetric, round to nearest: the definition and its float64 product.

One scale per row: s[n] = max_k |w[n, k]| / 127 (rounded to bfloat16), q = round(w / s) in [-127, 127].
LLM.int8() (Dettmers et al. 2022, arXiv:2208.07339, section 2) calls this vector-wise; here only the
weights are quantized, so there are no outlier columns to treat.
"""

from __future__ import annotations

import torch

MAX = 127


def quantize(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[N, K] any float -> int8 [N, K], bfloat16 scales [N].

    The scale is rounded first and the weights are divided by the rounded scale, so
    |w - q s| <= s / 2, plus at most half a step where the rounding of s cut the largest weight."""
    weight = weight.float()
    scale = (weight.abs().amax(1) / MAX).clamp_(min=1e-30).to(torch.bfloat16)
    q = torch.round(weight / scale.float()[:, None]).clamp_(-MAX, MAX)
    return q.to(torch.int8), scale


def dequantize(q: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype = torch.float32
               ) -> torch.Tensor:
    """int8 [N, K], [N] -> [N, K]."""
    return q.to(dtype) * scale.to(dtype)[:, None]


def matmul(x: torch.Tensor, q: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """[M, K] -> [M, N] float64."""
    return x.double() @ dequantize(q, scale, torch.float64).T
