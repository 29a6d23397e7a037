"""Full-precision KV cache: keys and values in the compute dtype, in static buffers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.shape import DTYPE_BYTES
from workbench.techniques.kvcache import KVCache

if TYPE_CHECKING:
    import torch

    from workbench.shape import ModelShape


@dataclass(frozen=True)
class Full(KVCache):
    """Keys and values kept in the compute dtype: nothing lost, most bytes."""

    title = "full-precision KV cache"

    def token_bytes(self, shape: ModelShape, dtype: str) -> int:
        return shape.kv_elements * DTYPE_BYTES[dtype]

    def start(self, config: Any, batch: int, capacity: int, device: torch.device,
              dtype: torch.dtype) -> Any:
        from workbench.runtime.cache import full_cache

        return full_cache(config, batch, capacity, device, dtype)
