"""A batch as caches of single sequences: for kinds whose storage packs a whole sequence at once.

KIVI quantizes keys in groups of tokens, so the sequences of one buffer share one length. With a cache
each they need not: every forward appends to each sequence's own cache, and what attention reads is put
side by side (a copy per layer and forward, beside the unpacking that such kinds do anyway).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from workbench.runtime.cache import FullLayer, StaticCache


class SplitLayer(FullLayer):
    """One layer of every sequence's own cache; ``each[b]`` has a batch of one."""

    movable = False

    def __init__(self, each: Sequence[FullLayer]) -> None:
        self.each = list(each)
        one = self.each[0]
        super().__init__(len(self.each), one.capacity, one.width, one.device, one.dtype)

    def _allocate(self, width: Any) -> None:
        self.keys, self.values = self.each[0].keys, self.each[0].values  # only asked for their device

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any,
               **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """As :meth:`FullLayer.update`; sequences shorter than the longest are followed by zeros."""
        which = range(len(self.each)) if self.span is None else self.span.slots[:, 0].tolist()
        end = key_states.shape[2] + self.length if self.span is None else self.span.end
        parts = []
        for row, slot in enumerate(which):
            self.each[slot].block = 1
            parts.append(self.each[slot].update(key_states[row:row + 1], value_states[row:row + 1]))
        self.length = end
        shown = self.shown(end)
        return tuple(_stack([p[i] for p in parts], shown) for i in (0, 1))  # type: ignore[return-value]

    def take(self, sequences: torch.Tensor) -> None:
        self.each = [self.each[i] for i in sequences.tolist()]
        self.batch = len(self.each)
        self.version += 1

    def buffers(self) -> list[torch.Tensor]:
        return [b for layer in self.each for b in layer.buffers()]


def _stack(parts: list[torch.Tensor], columns: int) -> torch.Tensor:
    """[1, K, own columns, D] each -> [b, K, columns, D]."""
    like = parts[0]
    out = like.new_zeros(len(parts), like.shape[1], columns, like.shape[3])
    for row, part in enumerate(parts):
        held = min(columns, part.shape[2])
        out[row, :, :held] = part[0, :, :held]
    return out


class SplitCache(StaticCache):
    """As :class:`StaticCache`, made of one cache per sequence."""

    def __init__(self, caches: Sequence[StaticCache]) -> None:
        self._caches = list(caches)
        layers = [SplitLayer([c.parts[i] for c in caches]) for i in range(len(caches[0].parts))]
        super().__init__(layers, f"{caches[0].label}, one cache per sequence")

    @property  # type: ignore[override]
    def workspace_bytes(self) -> int:
        return sum(cache.workspace_bytes for cache in self._caches)

    @workspace_bytes.setter
    def workspace_bytes(self, value: int) -> None:
        return None

    def rewind(self, length: int) -> None:
        """Every sequence holds at most ``length`` tokens."""
        for cache in self._caches:
            if cache.length > length:
                cache.rewind(length)
        super().rewind(length)

    def open(self, slots: Sequence[int], bases: Sequence[int], rows: int) -> None:
        for slot, base in zip(slots, bases, strict=True):
            if self._caches[slot].length != base:
                self._caches[slot].rewind(base)
        super().open(slots, bases, rows)

    def keep(self, base: int, rows: Sequence[int]) -> None:
        for cache in self._caches:
            cache.keep(base, rows)
        super().rewind(base + len(rows))

    def keep_each(self, slots: Sequence[int], bases: Sequence[int], rows: Sequence[Sequence[int]]) -> None:
        for slot, base, kept in zip(slots, bases, rows, strict=True):
            self._caches[slot].keep(base, kept)

    def shift(self, slots: Sequence[int], to: Sequence[int], columns: Sequence[Sequence[int]]) -> None:
        raise NotImplementedError("packed columns cannot be moved")

    def take(self, sequences: Sequence[int]) -> None:
        self._caches = [self._caches[i] for i in sequences]
        super().take(sequences)


def split(make: Callable[[int], StaticCache], sequences: int) -> StaticCache:
    """``make(sequences)`` where its sequences may have different lengths, else one cache for each."""
    cache = make(1)
    if cache.ragged:
        del cache
        return make(sequences)
    return SplitCache([cache, *(make(1) for _ in range(sequences - 1))])
