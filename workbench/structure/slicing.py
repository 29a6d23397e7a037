"""SliceGPT: turn the residual stream into its principal components, then leave the last ones out.

Ashkboos et al. 2024, arXiv:2401.15024, section 3. RMSNorm commutes with orthogonal matrices, so with norm
gains folded into the matrices that follow, every boundary between blocks may see the stream in a basis Q of
its own; the residual connection then needs Q_l^T Q_{l+1}. Without slicing the function stays (theorem 1).
Q is the eigenbasis of the normalised signal's second moments over calibration text, taken from the network
that is sliced up to there. The norm keeps dividing by the whole width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from workbench.errors import Cancelled, ModelError, SettingsError
from workbench.structure.checkpoint import blank

#: The kept width is a multiple of this, as the authors round it.
STEP = 8
#: Windows that run together.
ROWS = 8
Told = Callable[[int, int], None]


@dataclass
class Sliced:
    """``model``: a ``StructuredForCausalLM`` in float32; ``energy``: share of the normalised signal kept at
    each boundary, two per layer and the embedding's first; ``width`` kept of ``whole``."""

    model: Any
    width: int
    whole: int
    energy: tuple[float, ...]


def kept_width(width: int, share: float) -> int:
    """Channels that stay when ``share`` of them is sliced away. Raises SettingsError."""
    if not 0 <= share < 1:
        raise SettingsError(f"slice={share} is out of range; valid: 0 up to, not including, 1")
    kept = max(STEP, round(width * (1 - share) / STEP) * STEP) if share else width
    return min(width, kept)


def slice_model(model: Any, tokens: torch.Tensor, share: float, told: Told | None = None,
                cancelled: Callable[[], bool] | None = None) -> Sliced:
    """``model``: a float32 Llama, left as it is. ``tokens`` int64 [samples, length]: calibration text.

    Raises SettingsError, ModelError (biases), Cancelled."""
    config = model.config
    if getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False):
        raise ModelError("this model has biases in its linear layers, which slicing does not support")
    kept = kept_width(config.hidden_size, share)
    with torch.no_grad():
        return _Slicing(model, tokens, kept, told, cancelled).run()


class _Slicing:
    def __init__(self, model: Any, tokens: torch.Tensor, kept: int, told: Told | None,
                 cancelled: Callable[[], bool] | None) -> None:
        self.model, self.kept, self.told = model, kept, told or (lambda done, total: None)
        self.cancelled = cancelled or (lambda: False)
        self.made = blank(_config(model.config, kept))
        self.energy: list[float] = []
        self.batches = list(tokens.split(ROWS))

    def run(self) -> Sliced:
        whole, layers = self.model.config.hidden_size, self.model.model.layers
        embedded = [self.model.get_input_embeddings()(b) for b in self.batches]
        basis = self._basis(embedded)
        table = self.model.get_input_embeddings().weight.double()
        _fill(self.made.get_input_embeddings().weight, table @ basis.double())
        stream = [e @ basis for e in embedded]
        del embedded
        for index, layer in enumerate(layers):
            if self.cancelled():
                raise Cancelled("slicing was cancelled; nothing was written")
            stream, basis = self._layer(index, layer, stream, basis)
            self.told(index + 1, len(layers))
        head = self.model.get_output_embeddings().weight.double()
        gain = self.model.model.norm.weight.double()
        _fill(self.made.get_output_embeddings().weight, head * gain @ basis.double())
        return Sliced(self.made, self.kept, whole, tuple(self.energy))

    def _basis(self, signal: list[torch.Tensor]) -> torch.Tensor:
        """[width, kept]: the largest principal directions of the normalised signal."""
        width = signal[0].shape[-1]
        moments = torch.zeros(width, width, dtype=torch.float64)
        for part in signal:
            x = part.reshape(-1, width).double()
            x = x / x.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-12)
            moments += x.T @ x
        values, vectors = torch.linalg.eigh(moments)
        self.energy.append(float(values[-self.kept:].sum() / values.sum()))
        return vectors.flip(1)[:, :self.kept].float().contiguous()

    def _layer(self, index: int, layer: Any, stream: list[torch.Tensor], basis: torch.Tensor
               ) -> tuple[list[torch.Tensor], torch.Tensor]:
        made = self.made.model.layers[index]
        names = ("q_proj", "k_proj", "v_proj")
        self._readers(layer.input_layernorm, basis, [
            (getattr(made.self_attn, n), getattr(layer.self_attn, n)) for n in names])
        stream, middle = self._block(made, "o_proj", layer.self_attn.o_proj, "attention_shortcut",
                                     stream, basis)
        self._readers(layer.post_attention_layernorm, middle, [
            (getattr(made.mlp, n), getattr(layer.mlp, n)) for n in ("gate_proj", "up_proj")])
        return self._block(made, "down_proj", layer.mlp.down_proj, "mlp_shortcut", stream, middle)

    @staticmethod
    def _readers(norm: Any, basis: torch.Tensor, pairs: list[tuple[nn.Linear, nn.Linear]]) -> None:
        for target, source in pairs:
            _fill(target.weight, source.weight.double() * norm.weight.double() @ basis.double())

    def _block(self, made: Any, writer: str, source: nn.Linear, shortcut: str, stream: list[torch.Tensor],
               basis: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Run one block with its results in the original basis, choose the next basis, turn to it."""
        parent = made.self_attn if writer == "o_proj" else made.mlp
        real = getattr(parent, writer)
        setattr(parent, writer, source)
        try:
            whole = [x @ basis.T + self._made(made, writer, x) for x in stream]
        finally:
            setattr(parent, writer, real)
        following = self._basis(whole)
        _fill(real.weight, following.double().T @ source.weight.double())
        _fill(getattr(made, shortcut).weight, (basis.double().T @ following.double()).T)
        return [x @ following for x in whole], following

    def _made(self, made: Any, writer: str, x: torch.Tensor) -> torch.Tensor:
        if writer == "down_proj":
            result: torch.Tensor = made.mlp(made.post_attention_layernorm(x))
            return result
        places = torch.arange(x.shape[1])[None]
        turns = self.made.model.rotary_emb(x, places)
        out, _ = made.self_attn(hidden_states=made.input_layernorm(x), position_embeddings=turns,
                                attention_mask=None)
        result = out
        return result


def _config(config: Any, kept: int) -> Any:
    """Of the sliced model: narrower stream, same heads, same feed-forward, an untied head."""
    from workbench.runtime.structured import StructuredConfig

    fields = config.to_dict()
    for name in ("model_type", "architectures", "transformers_version", "dtype", "torch_dtype"):
        fields.pop(name, None)
    fields["head_dim"] = fields.get("head_dim") or config.hidden_size // config.num_attention_heads
    fields.update(hidden_size=kept, norm_width=config.hidden_size, shortcuts=True, tie_word_embeddings=False)
    made = StructuredConfig(**fields)
    made._attn_implementation = "sdpa"
    return made


def _fill(target: torch.Tensor, value: torch.Tensor) -> None:
    target.copy_(value.to(target.dtype))
