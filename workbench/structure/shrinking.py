"""Width and depth pruning: an ordinary, smaller Llama out of the parts that matter most.

Minitron (arXiv:2407.14679), sections 2.2 and 2.3. All layers share the stream, so the same channels go
everywhere; neurons and heads are chosen per layer. Query heads go in equal numbers from each group that
shares keys, so grouped attention stays regular.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from workbench.errors import SettingsError
from workbench.structure.checkpoint import blank
from workbench.structure.importance import Importance


@dataclass(frozen=True)
class Target:
    """Sizes of the smaller model; None keeps the source's. ``heads``: query heads."""

    layers: int | None = None
    ffn: int | None = None
    heads: int | None = None
    hidden: int | None = None


@dataclass(frozen=True)
class Kept:
    """What stays: ``layers``, ``channels``; per layer that stays ``neurons`` and ``heads``; all rising."""

    layers: tuple[int, ...]
    channels: torch.Tensor
    neurons: tuple[torch.Tensor, ...]
    heads: tuple[torch.Tensor, ...]


def choose(config: Any, found: Importance, target: Target) -> Kept:
    """The most important parts of each kind. Raises SettingsError (a size that cannot be)."""
    layers = _size("depth", target.layers, config.num_hidden_layers, 1)
    ffn = _size("ffn", target.ffn, config.intermediate_size, 8)
    kv = config.num_key_value_heads
    heads = _size("heads", target.heads, config.num_attention_heads, kv)
    hidden = _size("hidden", target.hidden, config.hidden_size, math.lcm(8, heads))
    kept_layers = tuple(sorted(found.layers.argsort(descending=True, stable=True)[:layers].tolist()))
    groups = found.heads.view(config.num_hidden_layers, kv, -1)
    chosen = [_top(groups[i], heads // kv) + torch.arange(kv)[:, None] * groups.shape[2]
              for i in kept_layers]
    return Kept(kept_layers, _top(found.channels, hidden),
                tuple(_top(found.neurons[i], ffn) for i in kept_layers),
                tuple(c.reshape(-1) for c in chosen))


def _size(name: str, wanted: int | None, had: int, step: int) -> int:
    if wanted is None:
        return had
    if not step <= wanted <= had or wanted % step:
        multiple = f" in steps of {step}" if step > 1 else ""
        raise SettingsError(f"--{name} {wanted} is not possible: this model has {had}, so choose {step} to "
                            f"{had}{multiple}")
    return wanted


def _top(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the ``count`` largest along the last axis, rising."""
    return scores.argsort(dim=-1, descending=True, stable=True)[..., :count].sort(-1).values


def shrink(model: Any, kept: Kept) -> Any:
    """A new float32 Llama of the parts ``kept``; ``model`` is left as it is."""
    config = model.config
    width = config.head_dim or config.hidden_size // config.num_attention_heads
    made = blank(_config(config, kept, width))
    c = kept.channels
    with torch.no_grad():
        made.get_input_embeddings().weight.copy_(model.get_input_embeddings().weight[:, c])
        if not config.tie_word_embeddings:
            made.get_output_embeddings().weight.copy_(model.get_output_embeddings().weight[:, c])
        made.model.norm.weight.copy_(model.model.norm.weight[c])
        for new, at, neurons, heads in zip(made.model.layers, kept.layers, kept.neurons, kept.heads,
                                           strict=True):
            old = model.model.layers[at]
            rows = (heads[:, None] * width + torch.arange(width)).reshape(-1)
            every = slice(None)
            cuts = {"self_attn.q_proj": (rows, c), "self_attn.k_proj": (every, c),
                    "self_attn.v_proj": (every, c), "self_attn.o_proj": (c, rows),
                    "mlp.gate_proj": (neurons, c), "mlp.up_proj": (neurons, c), "mlp.down_proj": (c, neurons)}
            for name, (outs, ins) in cuts.items():
                source, to = old.get_submodule(name), new.get_submodule(name)
                to.weight.copy_(source.weight[outs][:, ins])
                if source.bias is not None:
                    to.bias.copy_(source.bias[outs])
            for name in ("input_layernorm", "post_attention_layernorm"):
                new.get_submodule(name).weight.copy_(old.get_submodule(name).weight[c])
    return made


def _config(config: Any, kept: Kept, width: int) -> Any:
    made = type(config)(**{k: v for k, v in config.to_dict().items() if k != "layer_types"})
    made.num_hidden_layers, made.hidden_size = len(kept.layers), len(kept.channels)
    made.intermediate_size, made.num_attention_heads = len(kept.neurons[0]), len(kept.heads[0])
    made.head_dim = width
    return made
