"""Rotating the residual stream: every matrix that reads or writes it turns with it, the function stays.

QuaRot (Ashkboos et al. 2024, arXiv:2404.00456, section 4): norm gains are folded into the matrices that
follow; x' = x Q, readers become W diag(g) Q, writers Q^T W. Inside each head, values turn by R and the
output matrix back. RMSNorm commutes with Q because lengths stay. A tied head is untied, since the last
norm's gain goes into it. The online rotation before the last matrix of the feed-forward is not done: it
cannot be folded.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from workbench.calibration.hadamard import orthogonal
from workbench.calibration.layers import Layer, Opened
from workbench.errors import SettingsError

#: Llama-shaped decoders: RMSNorm before attention and feed-forward, nothing else on the stream.
ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")
READERS = {"input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
           "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj")}
WRITERS = ("self_attn.o_proj", "mlp.down_proj")
#: Rows of the embedding that are turned at a time.
ROWS = 4096


def refuse(config: object) -> None:
    """Raises SettingsError for an architecture that cannot be folded exactly."""
    kind = getattr(config, "model_type", "?")
    if kind not in ARCHITECTURES:
        raise SettingsError(f"a model of type {kind!r} cannot be rotated or rescaled exactly; it works for "
                            f"{', '.join(ARCHITECTURES)}; choose weights=gptq for others")


class Rotation:
    """The rotations of one model. ``width``: of the stream; ``head``: of one head's values."""

    def __init__(self, width: int, head: int, seed: int = 0) -> None:
        self.q, self.kind = orthogonal(width, seed)
        self.r, _ = orthogonal(head, seed + 1)

    def layer(self, layer: Layer) -> None:
        """Turn a filled layer in place; notes the norms and biases that changed."""
        module = layer.module
        for norm, names in READERS.items():
            gain = module.get_parameter(f"{norm}.weight")
            for name in names:
                weight = layer.linears[name].weight
                self._set(weight, weight.double() * gain.double() @ self.q)
            gain.fill_(1.0)
            layer.changed.add(f"{norm}.weight")
        self._values(layer)
        for name in WRITERS:
            linear = layer.linears[name]
            self._set(linear.weight, self.q.T @ linear.weight.double())
            if linear.bias is not None:
                self._set(linear.bias, linear.bias.double() @ self.q)
                layer.changed.add(f"{name}.bias")

    def _values(self, layer: Layer) -> None:
        value, out = layer.linears["self_attn.v_proj"], layer.linears["self_attn.o_proj"]
        size = len(self.r)
        heads = value.weight.double().view(-1, size, value.weight.shape[1])
        self._set(value.weight, (self.r.T @ heads).reshape(value.weight.shape))
        if value.bias is not None:
            self._set(value.bias, (value.bias.double().view(-1, size) @ self.r).reshape(-1))
            layer.changed.add("self_attn.v_proj.bias")
        blocks = out.weight.double().view(out.weight.shape[0], -1, size)
        self._set(out.weight, (blocks @ self.r).reshape(out.weight.shape))

    def outside(self, opened: Opened) -> None:
        """Turn the filled embedding in place."""
        weight = opened.model.get_input_embeddings().weight
        for part in weight.split(ROWS):
            self._set(part, part.double() @ self.q)

    @staticmethod
    def _set(target: torch.Tensor, value: torch.Tensor) -> None:
        target.copy_(value.to(target.dtype))


def write_outside(opened: Opened, rotation: Rotation, path: Path) -> None:
    """Embedding, last norm and head as they are in the turned model, bfloat16, whole or absent."""
    from safetensors.torch import save_file

    if path.is_file():
        return
    aside = path.with_suffix(".part")
    save_file(dict(_outside(opened, rotation)), aside)
    aside.replace(path)


def _outside(opened: Opened, rotation: Rotation) -> Iterator[tuple[str, torch.Tensor]]:
    model = opened.model
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    norm = last_norm(opened)
    names = opened.names
    for module in (embedding, norm, head):
        opened.fill(module)
    gain = norm.get_parameter("weight").double()
    turned = torch.cat([(p.double() * gain @ rotation.q).to(opened.dtype) for p in head.weight.split(ROWS)])
    rotation.outside(opened)
    yield f"{names[id(embedding)]}.weight", embedding.weight.detach().clone()
    yield f"{names[id(head)]}.weight", turned
    yield f"{names[id(norm)]}.weight", torch.ones_like(norm.get_parameter("weight"))
    opened.empty()


def last_norm(opened: Opened) -> nn.Module:
    """The norm between the last layer and the head."""
    found = [m for m in opened.outside() if "norm" in type(m).__name__.lower()]
    if len(found) != 1:
        raise SettingsError("this decoder has no single last norm, so it cannot be rotated")
    return found[0]
