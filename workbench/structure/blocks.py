"""Block-structured pruning with a power term: whole tiles of matrices go, over all layers at one slope.

LPViT (Xu et al. 2024, arXiv:2407.02068), section 3. Blocks of a matrix are ranked by the mean |w dL/dw| with
L the mean square of the output (no labels needed). Removing the first k of them costs, to second order with
the empirical Fisher, D(k) = |mean g.d| + 1/2 mean (g.d)^2 + c/2 |d|^2, d the removed weights. Every layer
then takes the k that minimises D + lambda * power + mu * work for one mu, found by bisection so that the
work that stays meets the target. Power is what survives times the tokens it sees (the released code counts
what is pruned): it falls with sparsity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from workbench.errors import ModelError, SettingsError

#: Points of a layer's curve; weight of |d|^2; halvings of the search for mu.
LEVELS, CURVATURE, HALVINGS = 100, 1e-4, 80


@dataclass(frozen=True)
class Curve:
    """One matrix: ``counts`` blocks removed, ``distortion``, ``work`` (MACs that stay) and ``power`` at each
    level, all [levels]; ``order``: blocks from the cheapest; ``grid``: blocks down and across."""

    name: str
    counts: torch.Tensor
    distortion: torch.Tensor
    work: torch.Tensor
    power: torch.Tensor
    order: torch.Tensor
    grid: tuple[int, int]


def curves(module: nn.Module, batches: Sequence[torch.Tensor], block: int = 16,
           price: Mapping[str, float] | None = None) -> list[Curve]:
    """One per linear layer that whole blocks divide, in the order of the modules.

    ``batches``: inputs, one Fisher sample each. ``price``: power of one surviving MAC by layer, 1 by
    default. Raises SettingsError (no such layer, no inputs), ModelError (gradients that are not finite)."""
    linears = {n: m for n, m in module.named_modules() if isinstance(m, nn.Linear)
               and m.in_features % block == 0 and m.out_features % block == 0}
    if not linears or not batches:
        raise SettingsError(f"no linear layer is divided by blocks of {block}; choose smaller blocks"
                            if batches else "block pruning needs at least one batch of inputs")
    dots, tokens = _products(module, linears, batches, block)
    found = []
    for name, linear in linears.items():
        weight = linear.weight.detach().double()
        order = dots[name].abs().mean(0).argsort(stable=True)
        along = dots[name][:, order].cumsum(1)
        norms = _tiles(weight.square(), block)[order].cumsum(0)
        bend = 0.5 * along.square().mean(0) + 0.5 * CURVATURE * norms + along.mean(0).abs()
        total = len(order)
        counts = torch.linspace(0, total, LEVELS + 1).round().long().unique()
        distortion = torch.cat((bend.new_zeros(1), bend))[counts]
        work = (total - counts).double() * block * block * tokens[name]
        grid = (weight.shape[0] // block, weight.shape[1] // block)
        found.append(Curve(name, counts, distortion, work, work * (price or {}).get(name, 1.0), order, grid))
    return found


def _tiles(matrix: torch.Tensor, block: int) -> torch.Tensor:
    """Sums over blocks, [blocks], row of blocks after row of blocks."""
    rows, columns = matrix.shape
    return matrix.view(rows // block, block, columns // block, block).sum((1, 3)).flatten()


def _products(module: nn.Module, linears: Mapping[str, nn.Linear], batches: Sequence[torch.Tensor],
              block: int) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    """Per layer sum over each block of w dL/dw [batches, blocks], and the tokens of one batch."""
    found: dict[str, list[torch.Tensor]] = {n: [] for n in linears}
    tokens: dict[str, int] = {}

    def counter(name: str) -> Any:
        def see(m: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            tokens[name] = args[0].numel() // args[0].shape[-1]
        return see

    hooks = [linears[n].register_forward_pre_hook(counter(n)) for n in linears]
    wanted = [m.weight.requires_grad for m in linears.values()]
    weights = [m.weight.requires_grad_(True) for m in linears.values()]
    try:
        for batch in batches:
            loss = module(batch).float().square().mean()
            grads = torch.autograd.grad(loss, weights, allow_unused=True)
            for (name, linear), grad in zip(linears.items(), grads, strict=True):
                if grad is None or not torch.isfinite(grad).all():
                    raise ModelError(f"the gradient of {name} is missing or not finite; check the model and "
                                     "its inputs")
                found[name].append(_tiles((linear.weight.detach() * grad).double(), block))
    finally:
        for hook in hooks:
            hook.remove()
        for weight, was in zip(weights, wanted, strict=True):
            weight.requires_grad_(was)
    return {n: torch.stack(v) for n, v in found.items()}, tokens


def allocate(layers: Sequence[Curve], target: float, power: float = 0.0) -> list[int]:
    """Levels, one per layer, with at most ``target`` (0 to 1) of all work left, at one slope.

    ``power``: lambda. Raises SettingsError."""
    if not 0 <= target <= 1 or power < 0:
        raise SettingsError(f"target={target} and power={power}: the target is a share of the work, 0 to 1, "
                            "and the weight of power is not negative")
    whole = sum(float(c.work[0]) for c in layers)
    scale = sum(float(c.distortion[-1]) for c in layers) / whole or 1.0

    def levels(mu: float) -> list[int]:
        return [int((c.distortion + scale * (power * c.power + mu * c.work)).argmin()) for c in layers]

    def left(picks: list[int]) -> float:
        return sum(float(c.work[i]) for c, i in zip(layers, picks, strict=True)) / whole

    low, high = 0.0, 1.0
    while left(levels(high)) > target and high < 1e30:
        high *= 4
    if left(levels(low)) <= target:
        return levels(low)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if left(levels(middle)) > target else (low, middle)
    return levels(high)


def uniform(layers: Sequence[Curve], target: float) -> list[int]:
    """The same share in every layer: what :func:`allocate` is compared with."""
    return [int((c.work / c.work[0] <= target + 1e-9).nonzero()[0]) for c in layers]


def kept_blocks(curve: Curve, level: int) -> torch.Tensor:
    """bool [down, across]."""
    mask = torch.ones(curve.grid[0] * curve.grid[1], dtype=torch.bool)
    mask[curve.order[:int(curve.counts[level])]] = False
    return mask.view(curve.grid)


class BlockLinear(nn.Module):
    """A linear layer of surviving blocks alone: each row of blocks reads the inputs that it has."""

    def __init__(self, linear: nn.Linear, kept: torch.Tensor) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.block = linear.out_features // kept.shape[0]
        self.bias = linear.bias
        self.parts = nn.ParameterList()
        places = torch.arange(linear.in_features).view(kept.shape[1], -1)
        self.columns = [places[row].flatten() for row in kept]
        for i, columns in enumerate(self.columns):
            rows = linear.weight.detach()[i * self.block:(i + 1) * self.block]
            self.parts.append(nn.Parameter(rows[:, columns].clone()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = [x[..., c] @ w.T if len(c) else x.new_zeros(*x.shape[:-1], self.block)
                for c, w in zip(self.columns, self.parts, strict=True)]
        y = torch.cat(made, -1)
        return y if self.bias is None else y + self.bias


def apply(module: nn.Module, layers: Sequence[Curve], levels: Sequence[int]) -> None:
    """Put :class:`BlockLinear` in the place of every layer that loses blocks, in ``module`` itself."""
    for curve, level in zip(layers, levels, strict=True):
        if not level:
            continue
        parent, _, key = curve.name.rpartition(".")
        linear = module.get_submodule(curve.name)
        assert isinstance(linear, nn.Linear)
        setattr(module.get_submodule(parent), key, BlockLinear(linear, kept_blocks(curve, level)))
