"""A static KV cache in int8: one symmetric scale per token and head, rounded to nearest.

Stored per vector x [D]: q = round(x / s) as int8 and s = max|x| / 127 as bfloat16, so D + 2 bytes
instead of 2 D. x is divided by the rounded scale, so |x - q s| <= 0.51 s per element.
Reading dequantizes the tokens that attention needs into one scratch buffer shared by all layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from workbench.kernels.kv_int8.launch import quantize
from workbench.runtime.cache import FullLayer, Span, StaticCache, Width, of_span, widths


def dequantize_into(out: torch.Tensor, q: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """``out`` = q * s, rounded once, to ``out``'s dtype (int8 is exact in every float)."""
    if out.dtype == scale.dtype:
        return torch.mul(q, scale, out=out)
    out.copy_(q)
    return out.mul_(scale)


class Scratch:
    """Two buffers [B, K, capacity, D] in the compute dtype, made once, used by every layer."""

    def __init__(self) -> None:
        self._buffers: dict[str, torch.Tensor] = {}

    def get(self, which: str, like: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        held = self._buffers.get(which)
        if held is None or held.shape != like.shape:
            held = self._buffers[which] = torch.empty(like.shape, dtype=dtype, device=like.device)
        return held

    @property
    def nbytes(self) -> int:
        return sum(b.numel() * b.element_size() for b in self._buffers.values())


class Int8Layer(FullLayer):
    """One layer's keys and values as int8 with bfloat16 scales."""

    def __init__(self, scratch: Scratch, *args: Any) -> None:
        self.scratch = scratch
        super().__init__(*args)

    def _allocate(self, width: Width) -> None:
        heads, key, value = width

        def zeros(width: int, dtype: torch.dtype) -> torch.Tensor:
            return torch.zeros(self.batch, heads, self.capacity, width, device=self.device,
                               dtype=dtype)

        self.keys, self.values = zeros(key, torch.int8), zeros(value, torch.int8)
        self.key_scales, self.value_scales = zeros(1, torch.bfloat16), zeros(1, torch.bfloat16)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any,
               **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        if self.span is not None:
            return self._scatter(self.span, key_states, value_states)
        start = self.length
        end = start + key_states.shape[2]
        self.check(key_states, value_states, end)
        self.keys[:, :, start:end], self.key_scales[:, :, start:end] = quantize(key_states)
        self.values[:, :, start:end], self.value_scales[:, :, start:end] = quantize(value_states)
        self.length = end
        end = self.shown(end)
        return (self._read("keys", self.keys, self.key_scales, end, key_states.dtype),
                self._read("values", self.values, self.value_scales, end, key_states.dtype))

    def _scatter(self, span: Span, key_states: torch.Tensor, value_states: torch.Tensor
                 ) -> tuple[torch.Tensor, torch.Tensor]:
        self.check(key_states, value_states, span.end)
        kept = ((self.keys, self.key_scales, key_states), (self.values, self.value_scales, value_states))
        for codes, scales, states in kept:
            q, scale = quantize(states)
            codes[span.slots, :, span.columns] = q.transpose(1, 2)
            scales[span.slots, :, span.columns] = scale.transpose(1, 2)
        self.length = span.end
        end, dtype = self.shown(span.end), key_states.dtype
        keys = self._read("keys", self.keys, self.key_scales, end, dtype)
        values = self._read("values", self.values, self.value_scales, end, dtype)
        return of_span(keys, span), of_span(values, span)

    def _read(self, which: str, q: torch.Tensor, scale: torch.Tensor, end: int,
              dtype: torch.dtype) -> torch.Tensor:
        out = self.scratch.get(which, q, dtype)[:, :, :end]
        return dequantize_into(out, q[:, :, :end], scale[:, :, :end])

    def take(self, sequences: torch.Tensor) -> None:
        super().take(sequences)
        self.key_scales = self.key_scales[sequences]
        self.value_scales = self.value_scales[sequences]

    def buffers(self) -> list[torch.Tensor]:
        return [self.keys, self.values, self.key_scales, self.value_scales]


class Int8Cache(StaticCache):
    """As :class:`StaticCache`; its workspace is the shared scratch."""

    def __init__(self, layers: list[Int8Layer], scratch: Scratch) -> None:
        super().__init__(layers, "int8, one bfloat16 scale per token and head")
        self._scratch = scratch

    @property  # type: ignore[override]
    def workspace_bytes(self) -> int:
        return self._scratch.nbytes

    @workspace_bytes.setter
    def workspace_bytes(self, value: int) -> None:
        return None


def int8_cache(config: Any, batch: int, capacity: int, device: torch.device,
               dtype: torch.dtype) -> StaticCache:
    """Bytes = B * capacity * layers * K * (D + 2 + E + 2)."""
    scratch = Scratch()
    make: Callable[[Width], Int8Layer] = lambda w: Int8Layer(  # noqa: E731
        scratch, batch, capacity, w, device, dtype)
    return Int8Cache([make(w) for w in widths(config)], scratch)
