"""What heads use of their target: embeddings, final norm, output head."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F


class Target:
    """A transformers causal language model, seen by its heads. Its weights never change."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.decoder = model.get_decoder()
        self.embedding, self.head = model.get_input_embeddings(), model.get_output_embeddings()
        config = model.config.get_text_config()
        self.hidden: int = config.hidden_size
        self.layers: int = config.num_hidden_layers
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
        return F.embedding(ids, self.embedding.weight)

    def features(self, states: torch.Tensor) -> torch.Tensor:
        """The residual stream before the final norm -> after it, in the target's dtype."""
        return self.decoder.norm(states.to(self.dtype))

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """[..., hidden] after the final norm -> [..., vocab]."""
        return self.head(features)
