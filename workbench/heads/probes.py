"""Rows that stand for tokens not yet known, run through the target's own layers in training.

Hidden transfer and prompt tokens differ in where such rows enter: at a middle layer, or at the embeddings.
A window of T real tokens gets M places; behind each place p stand ``steps`` probe rows, at the positions
p + 1 and on. A probe sees the real tokens up to p and the probes of its place before it; nothing sees a
probe but later probes of its place.
"""

from __future__ import annotations

import torch

from workbench.heads.target import Target


def probe_mask(length: int, places: torch.Tensor, steps: int, dtype: torch.dtype) -> torch.Tensor:
    """Additive [1, 1, T + M * steps, T + M * steps]."""
    many = len(places)
    size = length + many * steps
    seen = torch.zeros(size, size, dtype=torch.bool)
    seen[:length, :length] = torch.ones(length, length, dtype=torch.bool).tril()
    real = torch.arange(length)[None] <= places.repeat_interleave(steps)[:, None]
    seen[length:, :length] = real
    block = torch.ones(steps, steps, dtype=torch.bool).tril()
    seen[length:, length:] = torch.block_diag(*[block.float()] * many).bool()
    return torch.zeros(size, size, dtype=dtype).masked_fill_(~seen, float("-inf"))[None, None]


def run(target: Target, layer: int, real: torch.Tensor, probes: torch.Tensor, places: torch.Tensor,
        steps: int) -> torch.Tensor:
    """``real`` [B, T, hidden] and ``probes`` [B, M, steps, hidden] enter ``layer`` -> features of the probes
    after the final norm [B, M, steps, hidden]. Gradients reach ``probes`` only."""
    batch, length, width = real.shape
    many = len(places)
    x = torch.cat([real, probes.reshape(batch, many * steps, width)], 1).to(target.dtype)
    after = places[:, None] + 1 + torch.arange(steps)
    positions = torch.cat([torch.arange(length), after.flatten()])[None].to(real.device)
    mask = probe_mask(length, places, steps, x.dtype).to(real.device)
    turns = target.decoder.rotary_emb(x, positions)
    for one in target.decoder.layers[layer:]:
        x = one(x, attention_mask=mask, position_ids=positions, position_embeddings=turns)
        x = x[0] if isinstance(x, tuple) else x
    return target.decoder.norm(x[:, length:]).view(batch, many, steps, width)


def choose(length: int, steps: int, share: float, generator: torch.Generator) -> torch.Tensor:
    """Sorted places p whose next ``steps`` + 1 tokens are in the window."""
    usable = length - 1 - steps
    many = max(1, round(share * usable))
    return torch.randperm(usable, generator=generator)[:many].sort().values
