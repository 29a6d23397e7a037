"""The definition, in float64: asymmetric groups with offset z = min and step s = (max - min) / (2^b - 1).

Keys: a group is ``group`` consecutive tokens of one channel, because a few channels are large in every token.
Values: a group is ``group`` consecutive channels of one token, so that a token's error stays its own. s and
z are
bfloat16 (rounded before q is found): x = q s + z. (Liu et al. 2024, KIVI, arXiv:2402.02750, section 3.)
"""

from __future__ import annotations

import math

import torch

BITS = (2, 4)


def quantize(x: torch.Tensor, bits: int, dim: int, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Groups of ``group`` along ``dim`` (which it divides) -> (codes uint8, shape of ``x``; pairs bfloat16
    (s, z) with ``dim`` divided by ``group`` and a last axis of 2)."""
    x = x.float().movedim(dim, -1)
    parts = x.unflatten(-1, (-1, group))
    low, high = parts.amin(-1, keepdim=True), parts.amax(-1, keepdim=True)
    z = low.bfloat16().float()
    s = ((high - z) / (2**bits - 1)).clamp_(min=0).bfloat16().float()
    q = torch.where(s > 0, (parts - z) / s, torch.zeros_like(parts))
    codes = torch.round(q).clamp_(0, 2**bits - 1).to(torch.uint8).flatten(-2)
    pairs = torch.stack((s[..., 0], z[..., 0]), -1).bfloat16()
    return codes.movedim(-1, dim), pairs.movedim(-2, dim if dim >= 0 else dim - 1)


def dequantize(
    codes: torch.Tensor, pairs: torch.Tensor, dim: int, dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    """Inverse of :func:`quantize`, up to rounding."""
    s, z = pairs.to(dtype).unbind(-1)
    group = codes.shape[dim] // s.shape[dim]
    s, z = (t.repeat_interleave(group, dim) for t in (s, z))
    return codes.to(dtype) * s + z


def attend(
    query: torch.Tensor,
    keys: tuple[torch.Tensor, torch.Tensor],
    values: tuple[torch.Tensor, torch.Tensor],
    key_rest: torch.Tensor,
    value_rest: torch.Tensor,
    scaling: float | None = None,
) -> torch.Tensor:
    """``query`` [B, H, n, D] of the last n tokens; ``keys``: codes [B, K, S, D] and pairs [B, K, S / g, D,
    2];
    ``values``: codes [B, K, T, E] and pairs [B, K, T, E / g, 2]; the rests [B, K, R, D | E] follow them in
    full.
    S + R of keys and of values are the same number of tokens. -> float64 [B, H, n, E]."""
    k = torch.cat((dequantize(*keys, dim=2), key_rest.double()), 2)
    v = torch.cat((dequantize(*values, dim=3), value_rest.double()), 2)
    groups, rows = query.shape[1] // k.shape[1], query.shape[2]
    k, v = (t.repeat_interleave(groups, 1) for t in (k, v))
    scores = query.double() @ k.mT * (scaling or 1 / math.sqrt(query.shape[3]))
    hidden = torch.ones(rows, k.shape[2]).tril(k.shape[2] - rows) == 0
    return torch.softmax(scores.masked_fill(hidden, -math.inf), -1) @ v
