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

    def start(self, config: Any, batch: int, capacity: int, device: torch.device,
              dtype: torch.dtype) -> Any:
        """A static cache for ``capacity`` tokens: a transformers ``Cache`` with ``rewind(length)``,
        ``keep(base, rows)`` (keep only these rows after ``base``, in order), ``length``, ``nbytes``."""
        raise NotImplementedError
