"""int8 KV cache: each token's keys and values rounded to 8 bits per head.

One symmetric scale per token and head, rounded to nearest. At 8 bits this is the plain, robust
choice; the sub-8-bit literature (KIVI, arXiv:2402.02750) needs per-channel keys, 8 bits does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.techniques.base import Claim, Paper
from workbench.techniques.kvcache import KVCache

if TYPE_CHECKING:
    import torch

    from workbench.shape import ModelShape

_SCALE_BYTES = 2


@dataclass(frozen=True)
class Int8(KVCache):
    """Keys and values rounded to 8 bits with one scale per token and head: about half the bytes."""

    title = "int8 KV cache"
    paper = Paper("2303.06865", "Sheng et al. 2023, FlexGen: KV cache quantized in groups", "5")
    claim = Claim("negligible accuracy loss at 4 bits in groups of 64; 8 bits is safer",
                  setup="OPT-30B and OPT-175B, Lambada and WikiText", memory="0.5x of 16-bit")
    lossless = False

    def token_bytes(self, shape: ModelShape, dtype: str) -> int:
        vectors = 2 * (1 if shape.latent_kv else shape.kv_heads) * shape.layers
        return shape.kv_elements + vectors * _SCALE_BYTES

    def start(self, config: Any, batch: int, capacity: int, device: torch.device,
              dtype: torch.dtype) -> Any:
        from workbench.runtime.cache_int8 import int8_cache

        return int8_cache(config, batch, capacity, device, dtype)
