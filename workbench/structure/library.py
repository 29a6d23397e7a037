"""Puzzle's block library: for every attention and feed-forward block, what could stand in its place.

Bercovich et al. 2024, arXiv:2411.19146, sections 3 and 4. Attention: as it is, one matrix, or nothing.
Feed-forward: as it is, fewer neurons (by mean |x_i| times the norm of their output column), one matrix,
nothing. Each is fitted to its parent's inputs and outputs on calibration text: local distillation, here by
least squares in closed form for what is linear (the output matrix, the one matrix), which gradient steps
would only approach. Grouped-query variants with fewer key heads are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from workbench.errors import SettingsError

#: Feed-forward widths as shares of the parent's; neurons come in steps of this many.
SHARES, STEP = (1.0, 0.75, 0.5, 0.25, 0.1), 8
#: Added to the diagonal before solving, as a share of its mean.
RIDGE = 1e-3
Weights = dict[str, torch.Tensor]


@dataclass
class Variant:
    """What may stand in a block's place. ``plan``: the block's entry in a ``layer_plan``; ``weights`` by path
    inside the layer; ``error``: squared difference to the parent's output over that output's square."""

    name: str
    plan: Any
    weights: Weights
    error: float

    @property
    def parameters(self) -> int:
        return sum(w.numel() for w in self.weights.values())


def attention_variants(layer: Any, seen: torch.Tensor, made: torch.Tensor) -> list[Variant]:
    """``seen``, ``made`` [tokens, hidden]: the block's normed input and its output."""
    own = _parts(layer, "self_attn", "input_layernorm")
    matrix, error = least_squares(seen, made)
    norm = {k: v for k, v in own.items() if "layernorm" in k}
    return [Variant("full", "full", own, 0.0),
            Variant("linear", "linear", {"self_attn.linear.weight": matrix, **norm}, error),
            Variant("none", "none", {}, 1.0)]


def ffn_variants(layer: Any, seen: torch.Tensor, made: torch.Tensor, inside: torch.Tensor,
                 shares: Sequence[float] = SHARES) -> list[Variant]:
    """As above; ``inside`` [tokens, ffn]: the input of the down projection."""
    own = _parts(layer, "mlp", "post_attention_layernorm")
    down = own["mlp.down_proj.weight"]
    scores = inside.abs().mean(0) * down.norm(dim=0)
    order, found = scores.argsort(descending=True), []
    for share in shares:
        width = max(STEP, round(share * down.shape[1] / STEP) * STEP)
        if width >= down.shape[1]:
            found.append(Variant("full", down.shape[1], own, 0.0))
            continue
        kept = order[:width].sort().values
        matrix, error = least_squares(inside[:, kept], made)
        cut = {"mlp.gate_proj.weight": own["mlp.gate_proj.weight"][kept],
               "mlp.up_proj.weight": own["mlp.up_proj.weight"][kept], "mlp.down_proj.weight": matrix}
        norm = {k: v for k, v in own.items() if "layernorm" in k}
        found.append(Variant(f"{share:.0%}", width, {**cut, **norm}, error))
    matrix, error = least_squares(seen, made)
    norm = {k: v for k, v in own.items() if "layernorm" in k}
    return [*found, Variant("linear", "linear", {"mlp.weight": matrix, **norm}, error),
            Variant("none", "none", {}, 1.0)]


def least_squares(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, float]:
    """The matrix W [outputs, inputs] for which x W^T is nearest to y, and its relative squared error.

    Raises SettingsError where there are fewer rows than columns of ``x``."""
    if len(x) < x.shape[1]:
        raise SettingsError(f"{len(x)} calibration tokens are too few to fit a block with {x.shape[1]} "
                            "inputs; give more samples")
    a, b = x.double(), y.double()
    moments = a.T @ a
    moments.diagonal().add_(RIDGE * float(moments.diagonal().mean()))
    w = torch.linalg.solve(moments, a.T @ b).T
    error = (b - a @ w.T).square().sum() / b.square().sum().clamp(min=1e-30)
    return w.float(), float(error)


def _parts(layer: Any, block: str, norm: str) -> Weights:
    return {name: p.detach() for name, p in layer.named_parameters()
            if name.startswith((f"{block}.", f"{norm}."))}


def observe(layer: Any, stream: list[torch.Tensor], turns: Any) -> tuple[dict[str, torch.Tensor],
                                                                       list[torch.Tensor]]:
    """Run a parent layer: inputs and outputs of its blocks [tokens, ...], and the stream behind it."""
    found: dict[str, list[torch.Tensor]] = {k: [] for k in ("a_in", "a_out", "f_in", "f_out", "f_mid")}

    def keep(key: str, x: torch.Tensor) -> None:
        found[key].append(x.detach().flatten(0, 1))

    hooks = [layer.input_layernorm.register_forward_hook(lambda m, a, out: keep("a_in", out)),
             layer.self_attn.o_proj.register_forward_hook(lambda m, a, out: keep("a_out", out)),
             layer.post_attention_layernorm.register_forward_hook(lambda m, a, out: keep("f_in", out)),
             layer.mlp.register_forward_hook(lambda m, a, out: keep("f_out", out)),
             layer.mlp.down_proj.register_forward_pre_hook(lambda m, a: keep("f_mid", a[0]))]
    try:
        with torch.no_grad():
            after = [layer(x, position_embeddings=turns, attention_mask=None) for x in stream]
    finally:
        for hook in hooks:
            hook.remove()
    return {k: torch.cat(v) for k, v in found.items()}, after
