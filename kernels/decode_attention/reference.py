"""The definition: softmax(q kᵀ scaling over the visible columns) v, in float64; grouped heads.

Query head h reads key head h // (H / K). Visible is a set of columns per row, so that plain decoding,
left-padded batches and token trees are one case.
"""

from __future__ import annotations

import math

import torch


def attend(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor,
           visible: torch.Tensor | None = None, scaling: float | None = None) -> torch.Tensor:
    """``query`` [B, H, n, D], ``keys`` [B, K, S, D], ``values`` [B, K, S, E] -> float64 [B, H, n, E].

    ``visible``: bool [B or 1, n, S], every row with one column at least; None sees everything."""
    groups = query.shape[1] // keys.shape[1]
    k = keys.double().repeat_interleave(groups, 1)
    v = values.double().repeat_interleave(groups, 1)
    scores = query.double() @ k.mT * (scaling or 1 / math.sqrt(query.shape[3]))
    if visible is not None:
        scores = scores.masked_fill(~visible[:, None], -math.inf)
    return torch.softmax(scores, -1) @ v


def tree_visible(base: int, parents: list[int]) -> torch.Tensor:
    """bool [1, 1 + n, base + 1 + n]: the root and its drafted nodes (``parents``: -1 is the root) see
    everything cached, their ancestors and themselves; node i lies in column base + 1 + i."""
    size = len(parents) + 1
    inside = torch.zeros(size, size, dtype=torch.bool)
    inside[:, 0] = True
    for node, parent in enumerate(parents):
        inside[node + 1] |= inside[parent + 1]
        inside[node + 1, node + 1] = True
    return torch.cat([torch.ones(size, base, dtype=torch.bool), inside], 1)[None]
