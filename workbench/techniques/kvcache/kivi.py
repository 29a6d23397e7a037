"""KIVI: keys in 2 or 4 bits per channel, values per token, the most recent tokens in full.

A few key channels are large in every token, so a scale per channel keeps the others' resolution; values
have no such
structure, and a scale per token keeps an error where it arose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.shape import DTYPE_BYTES
from workbench.techniques.base import Claim, Paper, control
from workbench.techniques.kvcache import KVCache

if TYPE_CHECKING:
    import torch

    from workbench.shape import ModelShape

_PAIR_BYTES = 4
_BEHIND = 128  # runtime.cache_kivi: rows of one forward that can be taken back


@dataclass(frozen=True)
class Kivi(KVCache):
    """Keys packed per channel, values per token, in 2 or 4 bits; the last tokens stay exact."""

    title = "2-bit KV cache (KIVI)"
    paper = Paper("2402.02750", "Liu et al. 2024, KIVI", "3")
    claim = Claim(
        "2.6x less peak memory with the weights counted, up to 4x the batch",
        setup="Llama-2, Falcon, Mistral; one A100-80GB; 2.35x to 3.47x throughput at that batch",
        memory="0.38x with the weights counted",
    )
    lossless = False

    bits: int = control(2, choices=(2, 4), unit="bits", help="of a key's element")
    value_bits: int = control(2, choices=(2, 4), unit="bits", help="of a value's element")
    group: int = control(
        32,
        choices=(32, 64, 128),
        unit="elements",
        help="tokens of a key channel, channels of a value that share a scale",
    )
    residual: int = control(128, choices=(128, 256), unit="tokens", help="most recent tokens kept in full")

    def token_bytes(self, shape: ModelShape, dtype: str) -> int:
        vectors = (1 if shape.latent_kv else shape.kv_heads) * shape.layers
        width = shape.kv_elements // (2 * vectors)
        group = self.group
        while width % group:
            group //= 2
        key = width * (self.bits / 8 + _PAIR_BYTES / self.group)
        value = width * self.value_bits // 8 + width // group * _PAIR_BYTES
        return round(vectors * (key + value))

    def fixed_bytes(self, shape: ModelShape, dtype: str) -> int:
        return shape.kv_elements * DTYPE_BYTES[dtype] * (self.residual + _BEHIND)

    def start(
        self, config: Any, batch: int, capacity: int, device: torch.device, dtype: torch.dtype
    ) -> Any:
        from workbench.runtime.cache_kivi import Form, kivi_cache

        form = Form(self.bits, self.value_bits, self.group, self.residual)
        return kivi_cache(config, batch, capacity, device, dtype, form)
