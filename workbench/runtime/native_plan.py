"""From a transformers module tree to the native executor's plan: addresses, nothing copied.

Only vectors (norms, biases) and the rotary tables are float32 copies. ``why_not`` says in a sentence
what keeps a model on the module path.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import torch

from workbench.kernels.decode_attention.abi import Attention
from workbench.kernels.decoder import abi
from workbench.kernels.native import abi as products
from workbench.runtime import native_weights as weights

if TYPE_CHECKING:
    from workbench.runtime.forward import Forward

#: Architectures whose layers are norm, attention, norm, gated MLP, in this order and no other.
ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")
#: Rotary embeddings whose angles depend on the position alone.
ROTARY = ("default", "linear", "llama3", "yarn")
_PROJECTIONS = (("q", "self_attn.q_proj"), ("k", "self_attn.k_proj"), ("v", "self_attn.v_proj"),
                ("out", "self_attn.o_proj"), ("gate", "mlp.gate_proj"), ("up", "mlp.up_proj"),
                ("down", "mlp.down_proj"))


def why_not(forward: Forward) -> str:
    """Why this model's steps run module by module, or "" when a plan can be made."""
    config, model = forward.config, forward.model
    if forward.device.type != "cpu":
        return f"the weights are on {forward.device}"
    if forward.dtype != torch.bfloat16:
        return f"{str(forward.dtype).removeprefix('torch.')} weights"
    if config.model_type not in ARCHITECTURES:
        return f"{config.model_type} layers"
    if config.hidden_act != "silu":
        return f"the activation {config.hidden_act}"
    kind = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if kind not in ROTARY:
        return f"{kind} rotary embedding"
    if forward.window:
        return "sliding attention"
    if any(p.is_meta for p in model.parameters()):
        return "layers that are streamed"
    return _odd_matrix(model)


def _odd_matrix(model: Any) -> str:
    for layer in model.model.layers:
        for _, path in _PROJECTIONS:
            why = weights.why_not(layer.get_submodule(path))
            if why:
                return why
    return weights.why_not(model.get_output_embeddings())


class Builder:
    """Makes the plan and keeps alive what it points to."""

    def __init__(self, forward: Forward) -> None:
        self._kept: list[Any] = []
        self._copies: list[torch.Tensor] = []
        #: Whether any matrix is stored in fewer bits than bfloat16.
        self.narrow = False
        config, model = forward.config, forward.model
        self.rotary = model.model.rotary_emb
        heads = config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        self.layers = (abi.Layer * config.num_hidden_layers)(
            *(self._layer(layer) for layer in model.model.layers))
        attention = Attention(heads, config.num_key_value_heads, width, 0, 0,
                              float(model.model.layers[0].self_attn.scaling))
        self.plan = abi.Plan(
            layers=config.num_hidden_layers, hidden=config.hidden_size,
            intermediate=config.intermediate_size, vocab=model.get_output_embeddings().out_features,
            eps=config.rms_norm_eps, attention=attention, layer=self.layers,
            embedding=self._address(model.get_input_embeddings().weight),
            norm=self._vector(model.model.norm.weight),
            head=self._matrix(model.get_output_embeddings()))

    def angles(self, positions: int) -> None:
        """Rotary tables for this many positions, float32 [positions, width / 2]."""
        if self.plan.positions >= positions:
            return
        places = torch.arange(positions)[None]
        cos, sin = self.rotary(torch.zeros(1, 1, dtype=torch.float32), places)
        half = cos.shape[-1] // 2
        self.cos, self.sin = (t[0, :, :half].contiguous() for t in (cos, sin))
        self.plan.cos, self.plan.sin = self.cos.data_ptr(), self.sin.data_ptr()
        self.plan.positions = positions

    @property
    def nbytes(self) -> int:
        """Bytes of the copies that only the plan needs."""
        tables = (self.cos, self.sin) if self.plan.positions else ()
        return sum(t.numel() * t.element_size() for t in
                   (*tables, *self._copies))

    def _layer(self, layer: Any) -> abi.Layer:
        attention = layer.self_attn
        found = abi.Layer(norm=self._vector(layer.input_layernorm.weight),
                          mlp_norm=self._vector(layer.post_attention_layernorm.weight))
        for name in ("q_norm", "k_norm"):
            module = getattr(attention, name, None)
            setattr(found, name, 0 if module is None else self._vector(module.weight))
        for name, path in _PROJECTIONS:
            setattr(found, name, self._matrix(layer.get_submodule(path)))
        return found

    def _matrix(self, module: Any) -> abi.Matrix:
        weight, held = weights.describe(module)
        self._kept += [weight, held]
        self.narrow |= weight.kind not in (products.BF16, products.SPARSE)
        bias = getattr(module, "bias", None)
        return abi.Matrix(
            weight=ctypes.addressof(weight), bias=0 if bias is None else self._vector(bias),
            bytes=sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers())),
            rows=module.out_features, columns=module.in_features)

    def _vector(self, tensor: torch.Tensor) -> int:
        """A float32 copy that lives as long as the plan."""
        copy = tensor.detach().float().clone()
        self._copies.append(copy)
        return int(copy.data_ptr())

    def _address(self, tensor: torch.Tensor) -> int:
        assert tensor.is_contiguous()
        assert tensor.dtype == torch.bfloat16
        self._kept.append(tensor)
        return int(tensor.data_ptr())
