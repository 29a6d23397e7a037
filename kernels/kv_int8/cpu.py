"""CPU: attention over blocks of the cache with a running softmax; nothing as long as the cache is
dequantized at once. Scales multiply scores and probabilities (one number per token), not the vectors
(D numbers per token)."""

from __future__ import annotations

import math

import torch

#: Tokens per block: scores and converted vectors of one head stay in the second-level cache.
BLOCK = 1024


def attend(query: torch.Tensor, keys: torch.Tensor, key_scales: torch.Tensor,
           values: torch.Tensor, value_scales: torch.Tensor, scaling: float | None = None
           ) -> torch.Tensor:
    """As ``reference.attend``; result in the query's dtype."""
    batch, heads, rows, width = query.shape
    kv_heads, length = keys.shape[1], keys.shape[2]
    folded = query.reshape(batch, kv_heads, heads // kv_heads * rows, width)
    best = query.new_full((*folded.shape[:3], 1), -math.inf, dtype=torch.float32)
    total = torch.zeros_like(best)
    out = query.new_zeros(*folded.shape[:3], values.shape[3], dtype=torch.float32)
    seen = length - rows + torch.arange(rows, device=query.device).repeat(heads // kv_heads) + 1
    for start in range(0, length, BLOCK):
        part = slice(start, min(start + BLOCK, length))
        scores = (folded @ keys[:, :, part].to(query.dtype).mT).float()
        scores *= key_scales[:, :, part].float().mT * (scaling or 1 / math.sqrt(width))
        if part.stop > length - rows:
            columns = torch.arange(part.start, part.stop, device=query.device)
            scores.masked_fill_(columns >= seen[:, None], -math.inf)
        top = torch.maximum(best, scores.amax(-1, keepdim=True))
        weight = torch.exp(scores - top)
        keep = torch.exp(best - top)
        total = total * keep + weight.sum(-1, keepdim=True)
        weight *= value_scales[:, :, part].float().mT
        out = out * keep + (weight.to(query.dtype) @ values[:, :, part].to(query.dtype)).float()
        best = top
    return (out / total).to(query.dtype).view(batch, heads, rows, -1)
