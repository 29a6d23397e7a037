"""Activation-aware scaling: input channels with large activations get a finer share of the grid.

AWQ (Lin et al. 2023, arXiv:2306.00978, section 3.2): W x = (W diag(s)) (x / s) with s = mean|x|^a, a in
[0, 1) chosen per group of matrices that share an input. Here the loss is the matrices' own squared output
error under the second moments of x (the authors run the whole block). 1 / s goes exactly into what makes
x: the norm before, the value matrix (one s per value channel, so that grouped heads stay exact), or the
"up" matrix.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from workbench.calibration.grid import Grid
from workbench.calibration.grids import dequantize, round_to_nearest
from workbench.calibration.layers import Layer
from workbench.calibration.statistics import Statistics

STEPS = 20


@dataclass(frozen=True)
class Fold:
    """``names`` share the input that ``producer`` makes."""

    names: tuple[str, ...]
    producer: str


FOLDS = (
    Fold(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "input_layernorm"),
    Fold(("self_attn.o_proj",), "self_attn.v_proj"),
    Fold(("mlp.gate_proj", "mlp.up_proj"), "post_attention_layernorm"),
    Fold(("mlp.down_proj",), "mlp.up_proj"),
)


def scale_layer(layer: Layer, statistics: dict[str, Statistics], grid: Grid, head: int
                ) -> dict[str, float]:
    """Rescale a filled layer in place. Returns producer -> the exponent that was chosen.

    ``head``: width of one head's values. The layer's function does not change. Ranges are not searched
    here: they are when the scaled weights are rounded."""
    chosen, grid = {}, dataclasses.replace(grid, clip=False)
    for fold in FOLDS:
        known = statistics[fold.names[0]]
        assert known.gram is not None
        weights = [layer.linears[n].weight for n in fold.names]
        size = _per_producer(known.mean_absolute(), layer, fold, head)
        best, exponent = _search(weights, size, known.gram, grid, layer, fold, head)
        chosen[fold.producer] = exponent
        if exponent:
            _apply(layer, fold, best, head)
    return chosen


def _per_producer(size: torch.Tensor, layer: Layer, fold: Fold, head: int) -> torch.Tensor:
    """Mean |x| per channel of the producer: heads that share a value channel are averaged."""
    if fold.producer != "self_attn.v_proj":
        return size
    kv = layer.linears[fold.producer].weight.shape[0] // head
    return size.view(kv, -1, head).mean(1).reshape(-1)


def _spread(s: torch.Tensor, columns: int, head: int) -> torch.Tensor:
    """A scale per channel of the producer -> per input column (grouped heads repeat it)."""
    if len(s) == columns:
        return s
    kv = len(s) // head
    return s.view(kv, 1, head).expand(kv, columns // len(s), head).reshape(-1)


def _search(weights: list[torch.Tensor], size: torch.Tensor, gram: torch.Tensor, grid: Grid,
            layer: Layer, fold: Fold, head: int) -> tuple[torch.Tensor, float]:
    best, found, exponent = float("inf"), torch.ones_like(size), 0.0
    for step in range(STEPS):
        s = size.clamp(min=1e-4).pow(step / STEPS)
        s = s / (s.max() * s.min()).sqrt()
        columns = _spread(s, gram.shape[0], head)
        error = sum(_loss(w.detach().float(), columns, gram, grid) for w in weights)
        if error < best:
            best, found, exponent = error, s, step / STEPS
    return found, exponent


def _loss(weight: torch.Tensor, s: torch.Tensor, gram: torch.Tensor, grid: Grid) -> float:
    q, pairs = round_to_nearest(weight * s, grid)
    delta = dequantize(q, pairs, grid.bits) / s - weight
    return float(((delta.to(gram.dtype) @ gram) * delta).sum())


def _apply(layer: Layer, fold: Fold, s: torch.Tensor, head: int) -> None:
    for name in fold.names:
        weight = layer.linears[name].weight
        weight.mul_(_spread(s, weight.shape[1], head).to(weight.dtype))
    producer = layer.linears.get(fold.producer) or layer.module.get_submodule(fold.producer)
    gain = producer.weight
    assert isinstance(gain, torch.Tensor)
    gain.div_(s[:, None].to(gain.dtype) if gain.ndim == 2 else s.to(gain.dtype))
    bias = getattr(producer, "bias", None)
    if isinstance(bias, torch.Tensor):
        bias.div_(s.to(bias.dtype))
        layer.changed.add(f"{fold.producer}.bias")
    if gain.ndim == 1:
        layer.changed.add(f"{fold.producer}.weight")
