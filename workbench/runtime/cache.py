"""Static KV caches: buffers allocated once, filled in place, rolled back by moving a length.

A cache holds ``length`` tokens of every sequence. A forward over n rows appends n; after a
verification ``keep(base, rows)`` leaves only the accepted rows. Nothing is allocated per token.
Shapes: keys [B, K, capacity, D], values [B, K, capacity, E]; B sequences, K key heads.

Ragged: sequences that accept different numbers of drafted tokens have different lengths. Whoever runs
the forwards knows them, so a forward is opened with a :class:`Span` (which sequences, from which column)
and the rows that were accepted are kept by ``keep_each``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from workbench.errors import SettingsError

if TYPE_CHECKING:
    from workbench.runtime.states import States

Width = tuple[int, int, int]  # key heads, key width, value width


def widths(config: Any) -> list[Width]:
    """Per layer (K, D, E) from a transformers config; one latent head for MLA models."""
    text = config.get_text_config()
    if getattr(text, "kv_lora_rank", None):
        one: Width = (1, text.kv_lora_rank, text.qk_rope_head_dim)
    else:
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        one = (heads, width, width)
    return [one] * text.num_hidden_layers


@dataclass(frozen=True)
class Span:
    """Where the rows of one ragged forward go: row i of its sequence b into column ``columns[b, i]`` of
    sequence ``slots[b]``. ``whole``: the sequences are all of the cache's, in order; ``end``: columns in
    use afterwards."""

    slots: torch.Tensor  # int64 [b, 1]
    columns: torch.Tensor  # int64 [b, n]
    whole: bool
    end: int


class FullLayer(CacheLayerMixin):
    """One layer's keys and values in the compute dtype."""

    #: Sequences may have different lengths; what is stored can go to other columns.
    ragged = movable = True
    is_sliding = False
    is_compileable = False
    keys: torch.Tensor  # type: ignore[assignment]
    values: torch.Tensor  # type: ignore[assignment]

    def __init__(self, batch: int, capacity: int, width: Width, device: torch.device,
                 dtype: torch.dtype) -> None:
        super().__init__()
        self.batch, self.capacity, self.width = batch, capacity, width
        self.device, self.dtype = device, dtype
        self.length = 0
        self.block = 1
        self.span: Span | None = None
        self.version = 0  # another number after every change of the buffers' addresses
        self._allocate(width)
        self.is_initialized = True

    def _allocate(self, width: Width) -> None:
        heads, key, value = width
        self.keys = torch.zeros(self.batch, heads, self.capacity, key, device=self.device,
                                dtype=self.dtype)
        self.values = torch.zeros(self.batch, heads, self.capacity, value, device=self.device,
                                  dtype=self.dtype)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any,
               **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Append [B, K, n, D] and [B, K, n, E]; views over all tokens so far, rounded up to whole
        blocks (what lies behind the last token is finite and hidden by the mask)."""
        if self.span is not None:
            return self._scatter(self.span, key_states, value_states)
        start = self.length
        end = start + key_states.shape[2]
        self.check(key_states, value_states, end)
        self.keys[:, :, start:end] = key_states
        self.values[:, :, start:end] = value_states
        self.length = end
        end = self.shown(end)
        return self.keys[:, :, :end], self.values[:, :, :end]

    def _scatter(self, span: Span, key_states: torch.Tensor, value_states: torch.Tensor
                 ) -> tuple[torch.Tensor, torch.Tensor]:
        """``update`` for sequences of different lengths; a copy where not all take part."""
        self.check(key_states, value_states, span.end)
        self.keys[span.slots, :, span.columns] = key_states.transpose(1, 2)
        self.values[span.slots, :, span.columns] = value_states.transpose(1, 2)
        self.length = span.end
        end = self.shown(span.end)
        return of_span(self.keys[:, :, :end], span), of_span(self.values[:, :, :end], span)

    def shown(self, end: int) -> int:
        """Columns that attention gets to see for ``end`` tokens."""
        return min(self.capacity, -(-end // self.block) * self.block)

    def check(self, key_states: torch.Tensor, value_states: torch.Tensor, end: int) -> None:
        """Shapes that the config did not tell are adopted at the first token, never later."""
        self.require(end)
        width = (key_states.shape[1], key_states.shape[3], value_states.shape[3])
        if width != self.width and self.length == 0:
            self.width = width
            self.version += 1
            self._allocate(width)

    def require(self, end: int) -> None:
        """Raises SettingsError when ``end`` tokens do not fit."""
        if end > self.capacity:
            raise SettingsError(f"the KV cache holds {self.capacity} tokens and {end} were needed; "
                                "lower limits.max_new_tokens or shorten the prompt")

    def move(self, base: int, rows: torch.Tensor) -> None:
        """Rows ``base + rows`` become the tokens from ``base`` on. The right side is a copy first,
        so overlapping source and destination are safe."""
        for buffer in self.buffers():
            buffer[:, :, base:base + len(rows)] = buffer.index_select(2, rows + base)

    def move_each(self, slots: torch.Tensor, to: torch.Tensor, columns: torch.Tensor) -> None:
        """Column ``columns[b, i]`` of sequence ``slots[b]`` goes to ``to[b, i]``; all int64."""
        for buffer in self.buffers():
            buffer[slots, :, to] = buffer[slots, :, columns]

    def take(self, sequences: torch.Tensor) -> None:
        """Keep only these sequences of the batch."""
        self.batch = len(sequences)
        self.version += 1
        self.keys, self.values = self.keys[sequences], self.values[sequences]

    def buffers(self) -> list[torch.Tensor]:
        return [self.keys, self.values]

    @property
    def nbytes(self) -> int:
        return sum(b.numel() * b.element_size() for b in self.buffers())

    # What transformers may ask a layer.
    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        return None

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return self.capacity

    get_max_cache_shape = get_max_length


def of_span(buffer: torch.Tensor, span: Span) -> torch.Tensor:
    """[B, ...] -> the span's sequences."""
    return buffer if span.whole else buffer[span.slots[:, 0]]


class StaticCache(Cache):
    """All layers; what the loop talks to. ``workspace_bytes``: scratch outside the stored KV."""

    # Asked by transformers in every forward; constants here instead of a walk over the layers.
    is_sliding = (False,)  # type: ignore[assignment]
    is_linear = (False,)  # type: ignore[assignment]
    is_dummy = (False,)  # type: ignore[assignment]
    is_compileable = False  # type: ignore[assignment]

    def __init__(self, layers: Sequence[FullLayer], label: str, scratch: int = 0) -> None:
        self.parts = list(layers)
        super().__init__(layers=list(layers))
        self.label, self.workspace_bytes = label, scratch
        #: Hidden states of the tokens, where a drafter asked for them.
        self.states: States | None = None

    @property
    def length(self) -> int:
        """Tokens held of every sequence."""
        return self.parts[0].length

    @property
    def capacity(self) -> int:
        return self.parts[0].capacity

    @property
    def version(self) -> int:
        """Changes when the buffers' addresses do."""
        return self.parts[0].version

    def require(self, end: int) -> None:
        """Raises SettingsError when ``end`` tokens do not fit."""
        self.parts[0].require(end)

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers, as allocated."""
        return sum(layer.nbytes for layer in self.parts)

    def show_blocks(self, block: int) -> None:
        """From now on attention gets whole blocks of this many columns; 1 is exact."""
        for layer in self.parts:
            layer.block = block

    def rewind(self, length: int) -> None:
        """Forget all tokens from ``length`` on. Also mends a forward that was cut short."""
        for layer in self.parts:
            layer.length = length

    def keep(self, base: int, rows: Sequence[int]) -> None:
        """Of the rows appended after ``base``, keep these, in this order."""
        if list(rows) != list(range(len(rows))):
            index = torch.tensor(rows, device=self.parts[0].keys.device)
            for layer in self.parts:
                layer.move(base, index)
        self.rewind(base + len(rows))

    # -- sequences of different lengths ----------------------------------------------------------

    @property
    def ragged(self) -> bool:
        """Whether sequences may have different lengths."""
        return self.parts[0].ragged

    @property
    def movable(self) -> bool:
        """Whether :meth:`shift` is possible."""
        return self.parts[0].movable

    def open(self, slots: Sequence[int], bases: Sequence[int], rows: int) -> None:
        """The next forward appends ``rows`` rows to each of the sequences ``slots``, from column
        ``bases[b]`` on; to be followed by :meth:`close`."""
        end = max(bases) + rows
        self.require(end)
        device = self.parts[0].keys.device
        where = torch.tensor([list(slots), list(bases)], device=device)
        span = Span(where[0][:, None], where[1][:, None] + torch.arange(rows, device=device),
                    list(slots) == list(range(self.parts[0].batch)), end)
        for layer in self.parts:
            layer.span = span

    def close(self, length: int) -> None:
        """Back to the plain way of appending; no sequence holds more than ``length`` columns."""
        for layer in self.parts:
            layer.span = None
        self.rewind(length)

    def keep_each(self, slots: Sequence[int], bases: Sequence[int], rows: Sequence[Sequence[int]]) -> None:
        """Of the rows that each sequence appended after its base, keep these, in this order."""
        moved = [(slot, base, kept) for slot, base, kept in zip(slots, bases, rows, strict=True)
                 if list(kept) != list(range(len(kept)))]
        if moved:
            self.shift([m[0] for m in moved], [m[1] for m in moved],
                       [[base + row for row in kept] for _, base, kept in moved])

    def shift(self, slots: Sequence[int], to: Sequence[int], columns: Sequence[Sequence[int]]) -> None:
        """Columns ``columns[b]`` of sequence ``slots[b]`` go to ``to[b]`` and on."""
        most = max(map(len, columns))
        # Short lists repeat their last move: the same value to the same place.
        padded = [[*c, *[c[-1]] * (most - len(c))] for c in columns]
        places = [[t + min(i, len(c) - 1) for i in range(most)] for t, c in zip(to, columns, strict=True)]
        device = self.parts[0].keys.device
        who, where, what = (torch.tensor(x, device=device) for x in (list(slots), places, padded))
        for layer in self.parts:
            layer.move_each(who[:, None], where, what)

    def take(self, sequences: Sequence[int]) -> None:
        """Keep only these sequences of the batch, in this order."""
        index = torch.tensor(sequences, device=self.parts[0].keys.device)
        for layer in self.parts:
            layer.take(index)


def full_cache(config: Any, batch: int, capacity: int, device: torch.device,
               dtype: torch.dtype) -> StaticCache:
    """Keys and values in ``dtype``; bytes = 2 * B * K * capacity * D * layers * itemsize."""
    layers = [FullLayer(batch, capacity, w, device, dtype) for w in widths(config)]
    return StaticCache(layers, str(dtype).removeprefix("torch."))
