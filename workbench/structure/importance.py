"""What each layer, neuron, head and channel contributes, from activations alone.

Minitron (Muralidharan et al. 2024, arXiv:2407.14679, section 2.2): mean over a sequence, L2 over samples,
of |input of the down projection| per neuron, of the norm of a head's output, and of |normed stream| per
channel summed over all norms; a layer's is 1 - cos(what enters, what leaves) (block importance).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from workbench.errors import Cancelled, ModelError

ROWS = 8


@dataclass(frozen=True)
class Importance:
    """``neurons`` [layers, ffn], ``heads`` [layers, heads], ``channels`` [hidden], ``layers`` [layers];
    float64, larger matters more."""

    neurons: torch.Tensor
    heads: torch.Tensor
    channels: torch.Tensor
    layers: torch.Tensor


class _Sums:
    """Means over each sequence, squared and summed over sequences."""

    def __init__(self) -> None:
        self.total: torch.Tensor | None = None

    def add(self, x: torch.Tensor) -> None:
        """``x`` [batch, tokens, n], not negative."""
        part = x.double().mean(1).square().sum(0)
        self.total = part if self.total is None else self.total + part

    def get(self) -> torch.Tensor:
        assert self.total is not None
        return self.total.sqrt()


def measure(model: Any, tokens: torch.Tensor, cancelled: Callable[[], bool] | None = None) -> Importance:
    """One forward of a float32 Llama over ``tokens`` int64 [samples, length].

    Raises ModelError where activations are not finite, Cancelled."""
    layers, width = model.model.layers, model.config.head_dim or \
        model.config.hidden_size // model.config.num_attention_heads
    neurons, heads = [_Sums() for _ in layers], [_Sums() for _ in layers]
    channels, distance = _Sums(), torch.zeros(len(layers), dtype=torch.float64)
    hooks = []

    def watch(module: Any, add: Callable[[torch.Tensor], None], output: bool = False) -> None:
        hooks.append(module.register_forward_hook(lambda m, args, out: add(out if output else args[0])))

    def of_layer(i: int, layer: Any) -> None:
        watch(layer.mlp.down_proj, lambda x: neurons[i].add(x.abs()))
        watch(layer.self_attn.o_proj, lambda x: heads[i].add(x.unflatten(-1, (-1, width)).norm(dim=-1)))

    for i, layer in enumerate(layers):
        of_layer(i, layer)
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            watch(norm, lambda x: channels.add(x.abs()), output=True)
    try:
        for batch in tokens.split(ROWS):
            if cancelled is not None and cancelled():
                raise Cancelled("measuring importance was cancelled; nothing was changed")
            with torch.no_grad():
                states = model.model(batch, output_hidden_states=True).hidden_states
            for i in range(len(layers)):
                a = states[i].double()
                b = (_left(layer=layers[i], entered=states[i], model=model) if i + 1 == len(layers)
                     else states[i + 1]).double()
                distance[i] += (1 - torch.cosine_similarity(a, b, -1)).mean(1).sum()
    finally:
        for hook in hooks:
            hook.remove()
    found = Importance(torch.stack([n.get() for n in neurons]), torch.stack([h.get() for h in heads]),
                       channels.get(), distance / len(tokens))
    if not all(torch.isfinite(t).all() for t in (found.neurons, found.heads, found.channels, found.layers)):
        raise ModelError("the model's activations on the calibration text are not finite; check the "
                         "checkpoint")
    return found


def _left(layer: Any, entered: torch.Tensor, model: Any) -> torch.Tensor:
    """What leaves the last layer, before the last norm (transformers reports it normed)."""
    turns = model.model.rotary_emb(entered, torch.arange(entered.shape[1])[None])
    with torch.no_grad():
        out: torch.Tensor = layer(entered, position_embeddings=turns, attention_mask=None)
    return out
