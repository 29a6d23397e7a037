"""Llama-style decoders whose layers differ: what slicing and searching make of an ordinary model.

A folder with this ``model_type`` opens like any other. Its config has, beside Llama's fields:

- ``layer_plan``: per layer {"attention": "full" | "linear" | "none", "ffn": width | "linear" | "none"}.
  "linear" is one matrix in the block's place; "none" leaves the block and its norm out, and an attention
  that is left out keeps no keys and values.
- ``norm_width``: RMSNorm divides by this many channels. After slicing (SliceGPT, Ashkboos et al. 2024,
  arXiv:2401.15024, section 3.3) the stream is narrower and its norm is still that of the whole.
- ``shortcuts``: a matrix on each residual connection, because neighbouring blocks see the stream in
  different bases (section 3.3, equation 9).
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaDecoderLayer, LlamaMLP

from workbench.errors import ModelError

MODEL_TYPE = "structured_llama"


class StructuredConfig(LlamaConfig):
    """See the module. An empty ``layer_plan`` is Llama's own layers."""

    model_type = MODEL_TYPE

    def __init__(self, layer_plan: list[dict[str, Any]] | None = None, norm_width: int | None = None,
                 shortcuts: bool = False, **kwargs: Any) -> None:
        width = kwargs.get("hidden_size")
        if width is not None and kwargs.get("head_dim") and kwargs.get("num_attention_heads"):
            # Llama's config insists that heads divide the stream, which a sliced one is too narrow for.
            kwargs["hidden_size"] = kwargs["head_dim"] * kwargs["num_attention_heads"]
        super().__init__(**kwargs)
        if width is not None:
            self.hidden_size = width
        full = {"attention": "full", "ffn": self.intermediate_size}
        self.layer_plan = layer_plan or [dict(full) for _ in range(self.num_hidden_layers)]
        self.norm_width = norm_width or self.hidden_size
        self.shortcuts = shortcuts
        if len(self.layer_plan) != self.num_hidden_layers:
            raise ModelError(f"the config plans {len(self.layer_plan)} layers and has "
                             f"{self.num_hidden_layers}; it is damaged")


def _validate(self: Any) -> None:
    """Llama's own checks, as if the stream had the width that its heads have together."""
    width, self.hidden_size = self.hidden_size, self.head_dim * self.num_attention_heads
    try:
        LlamaConfig.validate(self)  # type: ignore[attr-defined]
    finally:
        self.hidden_size = width


StructuredConfig.validate = _validate  # type: ignore[attr-defined]


class Norm(nn.Module):
    """RMSNorm that divides by the root of the sum of squares over ``whole`` channels."""

    def __init__(self, width: int, whole: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.whole, self.variance_epsilon = whole, eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        variance = wide.square().sum(-1, keepdim=True) / self.whole
        return self.weight * (wide * torch.rsqrt(variance + self.variance_epsilon)).to(x.dtype)


class NoKeys(nn.Module):
    """In attention's place: nothing, or one matrix. Tells the cache how many tokens went by."""

    def __init__(self, config: StructuredConfig, index: int, kind: str) -> None:
        super().__init__()
        self.index = index
        width = config.hidden_size
        self.linear = nn.Linear(width, width, bias=False) if kind == "linear" else None

    def forward(self, hidden_states: torch.Tensor, past_key_values: Any = None, **_: Any
                ) -> tuple[torch.Tensor | None, None]:
        if past_key_values is not None:
            empty = hidden_states.new_zeros(hidden_states.shape[0], 1, hidden_states.shape[1], 0)
            past_key_values.update(empty, empty, self.index)
        return None if self.linear is None else self.linear(hidden_states), None


class StructuredLayer(LlamaDecoderLayer):
    """A decoder layer as its plan says."""

    self_attn: Any
    input_layernorm: Any
    mlp: Any
    post_attention_layernorm: Any
    attention_shortcut: Any
    mlp_shortcut: Any

    def __init__(self, config: StructuredConfig, index: int) -> None:
        nn.Module.__init__(self)  # not Llama's own, which would build what is not wanted
        plan, width = config.layer_plan[index], config.hidden_size
        self.hidden_size = width
        attention, ffn = plan["attention"], plan["ffn"]
        self.self_attn = (LlamaAttention(config=config, layer_idx=index) if attention == "full"
                          else NoKeys(config, index, attention))
        self.input_layernorm = None if attention == "none" else self._norm(config)
        self.mlp = None
        if ffn == "linear":
            self.mlp = nn.Linear(width, width, bias=False)
        elif ffn != "none":
            sized = copy.copy(config)
            sized.intermediate_size = int(ffn)
            self.mlp = LlamaMLP(sized)
        self.post_attention_layernorm = None if ffn == "none" else self._norm(config)
        for name in ("attention_shortcut", "mlp_shortcut"):
            setattr(self, name, nn.Linear(width, width, bias=False) if config.shortcuts else None)

    @staticmethod
    def _norm(config: StructuredConfig) -> Norm:
        return Norm(config.hidden_size, config.norm_width, config.rms_norm_eps)

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        x = hidden_states
        seen = x if self.input_layernorm is None else self.input_layernorm(x)
        made, _ = self.self_attn(hidden_states=seen, **kwargs)
        x = _joined(x, made, self.attention_shortcut)
        made = None if self.mlp is None else self.mlp(self.post_attention_layernorm(x))
        return _joined(x, made, self.mlp_shortcut)


def _joined(x: torch.Tensor, made: torch.Tensor | None, shortcut: nn.Module | None) -> torch.Tensor:
    x = x if shortcut is None else shortcut(x)
    return x if made is None else x + made


class StructuredForCausalLM(LlamaForCausalLM):
    """Llama with :class:`StructuredLayer`."""

    config_class = StructuredConfig
    _no_split_modules = ["StructuredLayer"]

    def __init__(self, config: StructuredConfig) -> None:
        super().__init__(config)
        self.model.layers = nn.ModuleList(StructuredLayer(config, i)
                                          for i in range(config.num_hidden_layers))
        self.model.norm = Norm(config.hidden_size, config.norm_width, config.rms_norm_eps)
        self.post_init()


@functools.cache
def _register() -> None:
    AutoConfig.register(MODEL_TYPE, StructuredConfig)
    AutoModelForCausalLM.register(StructuredConfig, StructuredForCausalLM)


def known(kind: str | None) -> bool:
    """Whether this is the model type of this module; transformers knows it from then on."""
    if kind == MODEL_TYPE:
        _register()
    return kind == MODEL_TYPE
