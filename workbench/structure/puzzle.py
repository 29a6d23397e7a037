"""Puzzle: the best mix of block variants under limits of memory and latency, as a real model.

Bercovich et al. 2024, arXiv:2411.19146, section 4: every variant is scored by putting it alone into the
whole parent and taking the divergence of the predictions; costs are measured; one mixed-integer program
chooses. Scores are added up although they are not quite additive: ``Built`` says both the sum and what
the assembled model really has.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from workbench.errors import Cancelled
from workbench.structure import judging, library
from workbench.structure.choosing import Choice, Solution, solve
from workbench.structure.library import Variant

ROWS = 8
Told = Callable[[str, int, int], None]


@dataclass
class Library:
    """Two places per layer, attention then feed-forward: ``variants`` and what each is worth, ``choices``."""

    parent: Any
    variants: list[list[Variant]]
    choices: list[list[Choice]] = field(default_factory=list)

    def full(self) -> dict[str, float]:
        """What the parent's blocks cost."""
        return {k: sum(place[0].costs[k] for place in self.choices) for k in ("bytes", "ms")}


@dataclass(frozen=True)
class Built:
    """``model``: float32; ``predicted``: the sum of the scores, ``kl``: what it really is, same text."""

    model: Any
    plan: list[dict[str, Any]]
    solution: Solution
    predicted: float
    kl: float


def build_library(model: Any, tokens: torch.Tensor, scoring: torch.Tensor, *, context: int = 1024,
                  told: Told | None = None, cancelled: Callable[[], bool] | None = None) -> Library:
    """Fit, score and price every variant of a float32 Llama; the model is left as it is.

    ``tokens`` fit the variants, ``scoring`` int64 [windows, length] gives the divergences. Bytes are the
    block's in bfloat16 plus its keys and values for ``context`` tokens. Raises SettingsError, Cancelled."""
    told, stop = told or (lambda what, done, of: None), cancelled or (lambda: False)
    layers, found = model.model.layers, Library(model, [])
    stream = [model.get_input_embeddings()(b).detach() for b in tokens.split(ROWS)]
    turns = model.model.rotary_emb(stream[0], torch.arange(tokens.shape[1])[None])
    for index, layer in enumerate(layers):
        _check(stop)
        seen, stream = library.observe(layer, stream, turns)
        found.variants += [library.attention_variants(layer, seen["a_in"], seen["a_out"]),
                           library.ffn_variants(layer, seen["f_in"], seen["f_out"], seen["f_mid"])]
        told("fitting blocks", index + 1, len(layers))
    prices, base = _Prices(model, context), as_structured(model)
    for place, variants in enumerate(found.variants):
        choices = []
        for v in variants:
            _check(stop)
            score = 0.0 if v.name == "full" else _replaced(base, model, place, v, scoring)
            choices.append(Choice(v.name, score, prices.of(place, v)))
        found.choices.append(choices)
        told("scoring blocks", place + 1, len(found.variants))
    return found


def assemble(found: Library, solution: Solution, scoring: torch.Tensor) -> Built:
    """The model that a solution describes."""
    chosen = [place[i] for place, i in zip(found.variants, solution.picks, strict=True)]
    plan = [{"attention": chosen[2 * i].plan, "ffn": chosen[2 * i + 1].plan} for i in range(len(chosen) // 2)]
    made = as_structured(found.parent, plan)
    for place, v in enumerate(chosen):
        _load(made.model.layers[place // 2], v)
    kl = judging.judge(made, scoring, found.parent).kl
    assert kl is not None
    return Built(made, plan, solution, solution.score, kl)


def search(found: Library, memory: float = 1.0, latency: float = 1.0) -> Solution:
    """``memory``, ``latency``: shares of what the parent's blocks cost. Raises SettingsError."""
    full = found.full()
    return solve(found.choices, {"bytes": memory * full["bytes"], "ms": latency * full["ms"]})


def as_structured(model: Any, plan: list[dict[str, Any]] | None = None) -> Any:
    """A copy of a Llama whose layers are built after ``plan``; blocks that are full keep their weights."""
    from workbench.runtime.structured import StructuredConfig
    from workbench.structure.checkpoint import blank

    fields = model.config.to_dict()
    for name in ("model_type", "architectures", "transformers_version", "dtype", "torch_dtype"):
        fields.pop(name, None)
    config = StructuredConfig(**fields, layer_plan=copy.deepcopy(plan))
    config._attn_implementation = "sdpa"
    made = blank(config)
    own = model.state_dict()
    shapes = made.state_dict()
    made.load_state_dict({k: v for k, v in own.items() if k in shapes and shapes[k].shape == v.shape},
                         strict=False)
    return made


def _replaced(base: Any, parent: Any, place: int, variant: Variant, scoring: torch.Tensor) -> float:
    """KL(parent || parent with this one block replaced), nats per token."""
    from workbench.runtime.structured import StructuredLayer

    index, config = place // 2, copy.deepcopy(base.config)
    key = "attention" if place % 2 == 0 else "ffn"
    config.layer_plan[index][key] = variant.plan
    config._attn_implementation = "sdpa"
    old = base.model.layers[index]
    layer = StructuredLayer(config, index).float().eval().requires_grad_(False)
    shapes = layer.state_dict()
    layer.load_state_dict({k: v for k, v in old.state_dict().items()
                           if k in shapes and shapes[k].shape == v.shape}, strict=False)
    _load(layer, variant)
    base.model.layers[index] = layer
    try:
        kl = judging.judge(base, scoring, parent).kl
    finally:
        base.model.layers[index] = old
    assert kl is not None
    return kl


def _load(layer: Any, variant: Variant) -> None:
    with torch.no_grad():
        for name, value in variant.weights.items():
            layer.get_parameter(name).copy_(value)


class _Prices:
    """Bytes and measured milliseconds of a block for one decoded token; equal shapes are measured once."""

    REPEATS, CALLS = 7, 8

    def __init__(self, model: Any, context: int) -> None:
        config = model.config
        self.config, self.context = config, context
        width = config.head_dim or config.hidden_size // config.num_attention_heads
        self.keys = 2 * 2 * config.num_key_value_heads * width * context
        self._known: dict[tuple[str, Any], float] = {}

    def of(self, place: int, variant: Variant) -> dict[str, float]:
        kind = "attention" if place % 2 == 0 else "ffn"
        if variant.plan == "none":
            return {"bytes": 0.0, "ms": 0.0}
        keys = self.keys if kind == "attention" and variant.plan == "full" else 0
        if (kind, variant.plan) not in self._known:
            self._known[kind, variant.plan] = self._measure(kind, variant)
        return {"bytes": 2.0 * variant.parameters + keys, "ms": self._known[kind, variant.plan]}

    def _measure(self, kind: str, variant: Variant) -> float:
        """Median over repeats: the block's matrices times one row, bfloat16; attention over ``context``."""
        matrices = [w.bfloat16() for w in variant.weights.values() if w.ndim == 2]
        rows = [torch.randn(1, w.shape[1]).bfloat16() for w in matrices]
        config, full = self.config, kind == "attention" and variant.plan == "full"
        width = config.head_dim or config.hidden_size // config.num_attention_heads
        q = torch.randn(1, config.num_attention_heads, 1, width).bfloat16()
        k = torch.randn(1, config.num_key_value_heads, self.context, width).bfloat16()

        def once() -> None:
            for w, x in zip(matrices, rows, strict=True):
                torch.nn.functional.linear(x, w)
            if full:
                torch.nn.functional.scaled_dot_product_attention(q, k, k, enable_gqa=True)

        once()
        found = []
        for _ in range(self.REPEATS):
            began = time.perf_counter()
            for _ in range(self.CALLS):
                once()
            found.append((time.perf_counter() - began) / self.CALLS * 1e3)
        return statistics.median(found)


def _check(stop: Callable[[], bool]) -> None:
    if stop():
        raise Cancelled("the search was cancelled; nothing was written")
