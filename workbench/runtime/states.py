"""The target's hidden states of every token in its cache, for drafters that read them.

They are one more layer of the cache: a forward appends a row for each of its rows, and whatever keeps,
moves or forgets tokens does so with their states. So the states of accepted tokens are in their places
whatever was drafted, and nothing is stored when nobody asked.

``tap`` t is the residual stream that enters layer t; ``tap`` = number of layers is the stream before the
final norm. Rows are float32 on the CPU's native executor, else the model's dtype.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from workbench.errors import SettingsError
from workbench.runtime.cache import FullLayer, StaticCache

if TYPE_CHECKING:
    from workbench.runtime.ragged import RaggedRows
    from workbench.runtime.speculation import SpeculativeLoop


class StateLayer(FullLayer):
    """States [B, 1, capacity, hidden] of one tap, in the place of keys."""

    def __init__(self, batch: int, capacity: int, hidden: int, device: torch.device,
                 dtype: torch.dtype) -> None:
        super().__init__(batch, capacity, (1, hidden, 0), device, dtype)

    def buffers(self) -> list[torch.Tensor]:
        return [self.keys]

    def append(self, states: torch.Tensor) -> None:
        """[B, n, hidden] of the rows of a forward, where its keys went."""
        rows = states.to(self.dtype)[:, None]
        self.update(rows, rows[..., :0])


class States:
    """The taps of one cache."""

    def __init__(self, cache: StaticCache, hidden: int, device: torch.device, dtype: torch.dtype) -> None:
        self._cache, self._hidden, self._device, self._dtype = cache, hidden, device, dtype
        self.taps: dict[int, StateLayer] = {}

    def ask(self, taps: Sequence[int]) -> None:
        """From now on keep these taps too, from 1 on. Only before the first forward: the past is not
        known."""
        for tap in taps:
            if tap not in self.taps:
                one = self._cache.parts[0]
                layer = StateLayer(one.batch, one.capacity, self._hidden, self._device, self._dtype)
                self.taps[tap] = layer
                self._cache.parts.append(layer)

    def of(self, tap: int, start: int, end: int, sequence: int = 0) -> torch.Tensor:
        """States [end - start, hidden] of columns ``start`` to ``end``, a view."""
        return self.taps[tap].keys[sequence, 0, start:end]

    def append(self, rows: dict[int, torch.Tensor]) -> None:
        """``rows[tap]`` [B, n, hidden] (or [B * n, hidden]) of the forward that just ran."""
        for tap, layer in self.taps.items():
            layer.append(rows[tap])

    def scatter(self, rows: dict[int, torch.Tensor], ragged: RaggedRows) -> None:
        """As :meth:`append` for rows of sequences one after the other, ``rows[tap]`` [rows, hidden]."""
        for tap, layer in self.taps.items():
            parts = rows[tap].split(ragged.counts)
            for slot, base, part in zip(ragged.slots, ragged.bases, parts, strict=True):
                layer.keys[slot, 0, base:base + len(part)] = part


def keep_states(cache: StaticCache, config: Any, taps: Sequence[int], device: torch.device,
                dtype: torch.dtype) -> States:
    """Let ``cache`` keep these taps. Raises SettingsError for kinds of caches that cannot."""
    from workbench.runtime.cache_int8 import Int8Layer

    if type(cache.parts[0]) not in (FullLayer, Int8Layer):
        raise SettingsError(f"heads read hidden states, which a {cache.label} cache does not keep; set "
                            "kv=full or kv=int8")
    if cache.states is None:
        cache.states = States(cache, config.hidden_size, device, dtype)
    cache.states.ask(taps)
    return cache.states


class View:
    """One sequence's states by position, wherever the loop has put the sequence."""

    def __init__(self, loop: SpeculativeLoop, sequence: int) -> None:
        self._loop, self._sequence = loop, sequence

    def rows(self, tap: int, start: int, end: int) -> torch.Tensor:
        """[end - start, hidden] of the tokens at positions ``start`` to ``end``, a view."""
        slot, pad = self.where()
        states = self._loop.cache.states
        assert states is not None
        return states.of(tap, pad + start, pad + end, slot)

    def where(self) -> tuple[int, int]:
        """The sequence's place in the cache and the column of its first token."""
        slot = next(i for i, s in enumerate(self._loop.active) if s.index == self._sequence)
        return slot, self._loop.pads[slot]

    def enter(self, states: torch.Tensor, layer: int, tokens: int) -> torch.Tensor:
        """Rows [n, hidden] that follow the first ``tokens`` tokens, one after the other, through the layers
        from ``layer`` on -> logits [n, V]. They leave nothing behind."""
        slot, pad = self.where()
        loop, n = self._loop, len(states)
        rows = loop.masks.ragged([slot], [pad + tokens], [tuple(range(-1, n - 2))])
        places = torch.arange(tokens, tokens + n, device=loop.forward.device)
        return loop.forward.enter(states, layer, places, rows, loop.cache)


def attach(loop: SpeculativeLoop) -> None:
    """Give the loop's drafters the hidden states that they ask for (``Drafter.taps``)."""
    each = loop.drafters.each
    taps = sorted({tap for drafter in each for tap in drafter.taps})
    if not taps:
        return
    dtype = torch.float32 if loop.forward.device.type == "cpu" else loop.forward.dtype
    keep_states(loop.cache, loop.forward.config, taps, loop.forward.device, dtype)
    for index, drafter in enumerate(each):
        drafter.states = View(loop, index)


@contextlib.contextmanager
def captured(layers: Sequence[Any], states: States | None) -> Iterator[dict[int, torch.Tensor]]:
    """Fills the dictionary with the taps' states [B, n, hidden] during a forward of these modules."""
    found: dict[int, torch.Tensor] = {}
    if states is None:
        yield found
        return

    def after(tap: int) -> Any:
        def hook(module: Any, given: Any, out: Any) -> None:
            found[tap] = out[0] if isinstance(out, tuple) else out
        return hook

    handles = [layers[tap - 1].register_forward_hook(after(tap)) for tap in states.taps]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
