"""Full-precision KV cache: keys and values in the compute dtype, in static buffers."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.techniques.kvcache import KVCache


@dataclass(frozen=True)
class Full(KVCache):
    """Keys and values kept in the compute dtype: nothing lost, most bytes."""

    title = "full-precision KV cache"
