"""What heads use of their target: embeddings, final norm, output head.

A function-preserving widened copy of a model (``zoo/recipes/widen.py``) holds every channel of the residual
stream ``copies`` times, so the original's heads serve it: they read the first copy and write all of them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F


class Target:
    """A transformers causal language model, seen by its heads. Its weights never change.

    ``narrow``: seen as the model that it is a widened copy of, where it is one."""

    def __init__(self, model: Any, narrow: bool = False) -> None:
        self.model = model
        self.decoder = model.get_decoder()
        self.embedding, self.head = model.get_input_embeddings(), model.get_output_embeddings()
        config = model.config.get_text_config()
        copy = (getattr(config, "widened_copy_of", None) or {}) if narrow else {}
        self.copies: int = copy.get("width_factor", 1)
        self.hidden: int = config.hidden_size // self.copies
        added = set(copy.get("identity_layers", ()))
        #: Layer of the original -> layer of this model; the last entry is their number.
        self._places = [i for i in range(config.num_hidden_layers) if i not in added]
        self._places.append(config.num_hidden_layers)
        self.layers: int = len(self._places) - 1
        self._narrow: torch.Tensor | None = None
        self.vocab: int = self.embedding.num_embeddings
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = getattr(config, "num_key_value_heads", None) or self.heads

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.embedding.weight.device

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """int64 [...] -> [..., hidden]."""
        return F.embedding(ids, self.embedding.weight)[..., :self.hidden]

    def tap(self, layer: int) -> int:
        """Where the stream that enters ``layer`` of the original is found in this model."""
        return self._places[layer]

    def narrowed(self, states: torch.Tensor) -> torch.Tensor:
        """The original's channels [..., hidden] of this model's states."""
        return states[..., :self.hidden]

    def widened(self, states: torch.Tensor) -> torch.Tensor:
        """[n, hidden] -> [n, hidden * copies], as this model's layers read them."""
        return states.repeat(1, self.copies) if self.copies > 1 else states

    def features(self, states: torch.Tensor) -> torch.Tensor:
        """This model's residual stream before the final norm -> the original's features [..., hidden]
        after it, in the target's dtype. (A copy's norm divides by the copies, as its head adds them up.)"""
        found = self.decoder.norm(states.to(self.dtype))
        return found if self.copies == 1 else found[..., :self.hidden] * self.copies

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """[..., hidden] after the final norm -> [..., vocab]."""
        if self.copies == 1:
            return self.head(features)
        if self._narrow is None:
            whole = getattr(self.head, "weight", None)
            if not isinstance(whole, torch.Tensor) or whole.shape[-1] != self.hidden * self.copies:
                whole = self.head.dequantize()
            self._narrow = whole[:, :self.hidden].to(self.dtype).contiguous()
        return F.linear(features, self._narrow)
