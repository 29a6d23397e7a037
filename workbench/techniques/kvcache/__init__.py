"""KV cache: how keys and values of past tokens are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.techniques.base import Technique

if TYPE_CHECKING:
    import torch

    from workbench.shape import ModelShape


@dataclass(frozen=True)
class KVCache(Technique):
    """Protocol of the family."""

    def token_bytes(self, shape: ModelShape, dtype: str) -> int:
        """Bytes for one token of one sequence over all layers; equals what ``start`` allocates."""
        raise NotImplementedError

    def fixed_bytes(self, shape: ModelShape, dtype: str) -> int:
        """Bytes for one sequence however many tokens it has, over all layers."""
        return 0

    def start(self, config: Any, batch: int, capacity: int, device: torch.device,
              dtype: torch.dtype) -> Any:
        """A static cache for ``capacity`` tokens: a transformers ``Cache`` with ``rewind(length)``,
        ``keep(base, rows)`` (keep only these rows after ``base``, in order), ``length``, ``nbytes``."""
        raise NotImplementedError


#: Caches are made in whole blocks of this many tokens.
BLOCK_TOKENS = 64


def capacity(prompt_tokens: int, max_new_tokens: int, rows: int = 1) -> int:
    """Tokens per sequence that a run's cache is made for: what is kept, and the ``rows - 1`` drafted
    tokens of one verification, in whole blocks. Bytes = batch * capacity * ``token_bytes``."""
    tokens = prompt_tokens + max_new_tokens + rows - 1
    return -(-tokens // BLOCK_TOKENS) * BLOCK_TOKENS
