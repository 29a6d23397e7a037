"""A Llama forward with few operations, for draft models.

A draft is so small that its time is launching operations, not arithmetic: transformers' code takes
about 45 of them per layer and 20 module calls, this one 20 and none (projections that read the same
input are one matrix, rotary embedding is applied to queries and keys at once). What a draft says is
always verified, so its last digits do not matter; the target keeps transformers' own code, where
every layer can be observed. Same interface as :class:`workbench.runtime.forward.Forward`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from workbench.runtime.attention import attend
from workbench.runtime.packed import Dense

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workbench.runtime.cache import StaticCache
    from workbench.runtime.forward import Forward, MaskSet


@dataclass
class _Layer:
    """One decoder layer's matrices: [rows, columns], projections of one input stacked."""

    norm: torch.Tensor
    qkv: torch.Tensor
    out: torch.Tensor
    mlp_norm: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


def lighten(forward: Forward) -> Forward | LeanForward:
    """The lean form where the architecture is a plain Llama with dense matrices, else as it is."""
    config = forward.config
    rope = getattr(config, "rope_parameters", None) or {}
    plain = (
        config.model_type == "llama" and config.hidden_act == "silu"
        and not getattr(config, "attention_bias", False) and not getattr(config, "mlp_bias", False)
        and rope.get("rope_type", "default") == "default" and "rope_theta" in rope
        and all(isinstance(m, Dense) for layer in forward.model.model.layers
                for m in (layer.self_attn.q_proj, layer.mlp.down_proj)))
    return LeanForward(forward) if plain else forward


class LeanForward:
    """``lean(ids, positions, mask, cache, keep) -> logits``, as a ``Forward``."""

    def __init__(self, forward: Forward) -> None:
        self.device, self.dtype, self.config = forward.device, forward.dtype, forward.config
        self.implementation, self.groups = forward.implementation, forward.groups
        self.kinds, self.window = forward.kinds, forward.window
        self.vocab, self.max_positions = forward.vocab, forward.max_positions
        config, model = forward.config, forward.model
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.width = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.eps, self.scaling = config.rms_norm_eps, self.width ** -0.5
        self.embedding = model.get_input_embeddings().weight
        self.head = model.get_output_embeddings().weight
        self.norm = model.model.norm.weight
        self.layers = [self._layer(layer) for layer in model.model.layers]
        self.cos, self.sin = self._rotary(config.rope_parameters["rope_theta"])

    @staticmethod
    def _layer(layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        return _Layer(
            layer.input_layernorm.weight,
            torch.cat([m.weight for m in (attention.q_proj, attention.k_proj, attention.v_proj)]),
            attention.o_proj.weight, layer.post_attention_layernorm.weight,
            torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]), mlp.down_proj.weight)

    def _rotary(self, theta: float) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and signed sin, [positions, 1, D]: rotate(x) = x * cos + roll(x, D/2) * sin."""
        half = torch.arange(0, self.width, 2, dtype=torch.float32) / self.width
        positions = min(self.max_positions, 1 << 16)
        angle = torch.arange(positions, dtype=torch.float32)[:, None] / theta**half[None]
        cos, sin = torch.cat([angle.cos()] * 2, 1), torch.cat([-angle.sin(), angle.sin()], 1)
        return (cos[:, None].to(self.device, self.dtype), sin[:, None].to(self.device, self.dtype))

    @property
    def nbytes(self) -> int:
        """Bytes of the matrices and tables that are kept."""
        tensors = [self.embedding, self.head, self.norm, self.cos, self.sin]
        tensors += [t for layer in self.layers for t in vars(layer).values()]
        return sum({t.data_ptr(): t.numel() * t.element_size() for t in tensors}.values())

    def masks(self, pads: Sequence[int], capacity: int) -> MaskSet:
        from workbench.runtime.forward import MaskSet

        return MaskSet(self, pads, capacity)

    def warm(self) -> None:
        """One forward over one token, its result thrown away."""
        from workbench.runtime.cache import full_cache

        zero = torch.zeros(1, 1, dtype=torch.long, device=self.device)
        self(zero, zero, None, full_cache(self.config, 1, 1, self.device, self.dtype), 1)

    def __call__(self, ids: torch.Tensor, positions: torch.Tensor, mask: Any, cache: StaticCache,
                 keep: int) -> torch.Tensor:
        """``ids`` and ``positions`` int64 [B, n] -> logits [B, keep, V] of the last ``keep`` rows."""
        batch, n = ids.shape
        x = F.embedding(ids, self.embedding)
        cos, sin = F.embedding(positions, self.cos[:, 0])[:, :, None], F.embedding(
            positions, self.sin[:, 0])[:, :, None]
        hidden, turned, half = x.shape[-1], self.heads + self.kv_heads, self.width // 2
        for part, layer in zip(cache.parts, self.layers, strict=True):
            h = F.rms_norm(x, (hidden,), layer.norm, self.eps)
            qkv = F.linear(h, layer.qkv).view(batch, n, turned + self.kv_heads, self.width)
            qk = qkv[:, :, :turned]
            qk = torch.addcmul(qk * cos, qk.roll(half, -1), sin).transpose(1, 2)
            keys, values = part.update(qk[:, self.heads:], qkv[:, :, turned:].transpose(1, 2))
            out, _ = attend(None, qk[:, :self.heads], keys, values, mask, self.scaling)
            x = x + F.linear(out.view(batch, n, -1), layer.out)
            h = F.rms_norm(x, (hidden,), layer.mlp_norm, self.eps)
            gate, up = F.linear(h, layer.gate_up).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, layer.down)
        x = F.rms_norm(x[:, n - keep:], (hidden,), self.norm, self.eps)
        return F.linear(x, self.head)
