"""The native executor: one C call per forward, over the same weights and caches.

Rows are plain steps, batches, token trees or a prompt's chunk. Everything it needs is made once: the
plan, the scratch, the addresses of a cache, the layout of a tree. Models without a plan run module by
module.
"""

from __future__ import annotations

import ctypes
import functools
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from workbench.kernels.decode_attention.abi import BF16, INT8, Kv, Layout, Ragged
from workbench.kernels.decoder import abi
from workbench.runtime import native_library as library
from workbench.runtime import native_plan
from workbench.runtime.cache import FullLayer, StaticCache
from workbench.runtime.cache_int8 import Int8Layer
from workbench.runtime.native_trace import Ring

if TYPE_CHECKING:
    from workbench.runtime.forward import Forward, MaskSet
    from workbench.runtime.ragged import RaggedRows

#: A forward of more rows than this (batch times nodes) runs module by module.
MOST_ROWS = 512
_KINDS = {FullLayer: BF16, Int8Layer: INT8}


def executor_for(forward: Forward) -> tuple[Executor | None, str]:
    """The executor of this model, or None and why in a few words."""
    why = library.why_not() if _library() is None else native_plan.why_not(forward)
    return (None, why) if why else (Executor(forward), "")


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The library with the decoder's functions declared, None where there is none."""
    return abi.declare(library.load()) if library.available() else None


def argmax(logits: torch.Tensor) -> torch.Tensor:
    """[n, V] -> int64 [n], the first largest. torch's own takes 80 us for 32 000 numbers, this 5."""
    loaded = _library()
    plain = logits.dtype == torch.float32 and logits.is_contiguous() and logits.dim() == 2
    if loaded is None or not plain or logits.device.type != "cpu":
        return logits.argmax(-1)
    out = torch.empty(logits.shape[0], dtype=torch.int64)
    loaded.wb_argmax(logits.data_ptr(), *logits.shape, out.data_ptr())
    return out


class Rows:
    """What a mask says, without the mask: ``base`` tokens cached, then a tree (``parents``, -1 is the
    root). ``additive()`` makes the tensor for a forward that runs module by module."""

    def __init__(self, base: int, parents: tuple[int, ...], pads: Sequence[int],
                 additive: Callable[[], Any]) -> None:
        self.base, self.parents, self.pads, self.additive = base, parents, pads, additive


class RowSet:
    """As :class:`workbench.runtime.forward.MaskSet`, for a forward that has an executor."""

    def __init__(self, masks: MaskSet, pads: Sequence[int]) -> None:
        self._masks, self._pads = masks, list(pads)
        self.block = masks.block

    def rows(self, base: int, n: int) -> Rows:
        return Rows(base, _chain(n - 1), self._pads,
                    functools.partial(self._masks.rows, base, n))

    def tree(self, base: int, parents: Sequence[int], depths: Sequence[int]) -> Rows:
        return Rows(base, tuple(parents), self._pads,
                    functools.partial(self._masks.tree, base, parents, depths))

    def ragged(self, slots: Sequence[int], bases: Sequence[int], trees: Sequence[Sequence[int]]
               ) -> RaggedRows:
        return self._masks.ragged(slots, bases, trees)

    def repad(self, pads: Sequence[int]) -> None:
        self._pads = list(pads)
        self._masks.repad(pads)

    def take(self, sequences: Sequence[int]) -> None:
        self._pads = [self._pads[s] for s in sequences]
        self._masks.take(sequences)


@functools.cache
def _chain(n: int) -> tuple[int, ...]:
    return tuple(range(-1, n - 1))


class Executor:
    """Runs forwards of one model. The logits it returns are valid until its next forward."""

    most_rows = MOST_ROWS

    def __init__(self, forward: Forward) -> None:
        loaded = _library()
        assert loaded is not None
        self.library = loaded
        self.ring = Ring(self.library)
        self._builder = native_plan.Builder(forward)
        self._plan = self._builder.plan
        self._call = abi.Forward()
        self._taps = (abi.ADDRESS * (self._plan.layers + 1))()
        self._bound: tuple[Any, int] | None = None
        self._layouts: dict[tuple[int, tuple[int, ...]], Layout] = {}
        self._raggeds: dict[tuple[tuple[int, ...], ...], Ragged] = {}
        self._scratch = torch.empty(0, dtype=torch.uint8)
        self._scratch_for = (0, 0, 0)
        self._logits = torch.empty(0)
        #: Called before every layer while it is set (a slow forward that may be cancelled).
        self.check: Callable[[], None] | None = None
        #: The rows of every forward are a prompt's while this is true.
        self.prompt = False

    @property
    def nbytes(self) -> int:
        """Bytes of scratch, tables and copies that the executor holds beside the weights."""
        return self._builder.nbytes + sum(
            t.numel() * t.element_size() for t in (self._scratch, self._logits))

    def describe(self) -> str:
        """What runs, in words."""
        isa = library.isa()
        expanded = self._builder.narrow and isa == "amx"
        prompts = "; a prompt's weights expanded to bfloat16" if expanded else ""
        return f"native, one call per forward{prompts} ({isa})"

    def takes(self, rows: Rows, batch: int, cache: StaticCache) -> bool:
        """Whether this forward runs here: decided by shape alone, so that a text does not depend on
        anything else."""
        count = batch * (1 + len(rows.parents))
        return count <= MOST_ROWS and self.reads(cache)

    def __call__(self, ids: torch.Tensor, positions: torch.Tensor, rows: Rows, cache: StaticCache,
                 keep: int, embedded: torch.Tensor | None = None) -> torch.Tensor:
        """``ids``, ``positions`` int64 [B, n] -> float32 logits [B, keep, V]; appends n tokens.
        ``embedded`` float32 [B, n, hidden]: read instead of the ids' embeddings."""
        batch, n = ids.shape
        base = cache.length
        cache.require(base + n)
        self._bind(cache)
        call = self._call
        layout = self._layout(batch, rows, base)
        call.rows = layout.rows
        ids, positions = ids.contiguous(), positions.contiguous()
        call.ids, call.positions = ids.data_ptr(), positions.data_ptr()
        self._room(batch, n, keep, cache.capacity)
        call.keep = keep
        straight = self._point(cache, batch, base)
        told = {} if straight else self._ask(cache, batch * n)
        call.input, call.enter = None if embedded is None else embedded.data_ptr(), 0
        self._run()
        if cache.states is not None and not straight:
            cache.states.append({tap: rows.view(batch, n, -1) for tap, rows in told.items()})
        cache.rewind(base + n)
        return self._logits[:batch * keep].view(batch, keep, -1)

    def enter(self, states: torch.Tensor, layer: int, positions: torch.Tensor, rows: RaggedRows,
              cache: StaticCache) -> torch.Tensor:
        """See :meth:`workbench.runtime.forward.Forward.enter`; ``states`` float32."""
        call, n = self._call, len(positions)
        cache.require(max(rows.bases) + n)
        self._bind(cache)
        layout = self._ragged_layout(rows)
        call.rows, call.positions = layout.rows, positions.data_ptr()
        self._room(1, n, n, cache.capacity)
        call.keep, call.states = n, None
        call.input, call.enter = states.data_ptr(), layer
        self._run(layer)
        call.input = None
        return self._logits[:n]

    def part(self, states: torch.Tensor, first: int, last: int, positions: torch.Tensor, rows: RaggedRows,
             cache: StaticCache) -> torch.Tensor:
        """See :meth:`workbench.runtime.forward.Forward.part`; ``states`` float32."""
        call, n = self._call, len(positions)
        cache.require(max(rows.bases) + n)
        self._bind(cache)
        layout = self._ragged_layout(rows)
        call.rows, call.positions = layout.rows, positions.data_ptr()
        self._room(1, n, n, cache.capacity)
        out = torch.empty(n, self._plan.hidden)
        for layer in range(self._plan.layers + 1):
            self._taps[layer] = out.data_ptr() if layer == last < self._plan.layers else None
        call.keep, call.states = n, self._taps
        call.input, call.enter = states.data_ptr(), first
        self._run(first, last)
        call.input = call.states = None
        return self._logits[:n] if last == self._plan.layers else out

    def _point(self, cache: StaticCache, batch: int, base: int) -> bool:
        """Let the next forward tell one sequence's hidden states right where ``cache`` keeps them; False
        where they lie otherwise. (A copy costs a small model three percent of a step.)"""
        if cache.states is None or batch != 1:
            return False
        taps = {tap: part.keys for tap, part in cache.states.taps.items()}
        if any(len(kept) != 1 or kept.dtype != torch.float32 for kept in taps.values()):
            return False
        ahead = base * self._plan.hidden * 4
        for layer in range(self._plan.layers + 1):
            self._taps[layer] = taps[layer].data_ptr() + ahead if layer in taps else None
        self._call.states = self._taps
        return True

    def _ask(self, cache: StaticCache, rows: int) -> dict[int, torch.Tensor]:
        """Where the next forward tells the hidden states that ``cache`` keeps: {tap: [rows, hidden]}."""
        if cache.states is None:
            self._call.states = None
            return {}
        told = {tap: torch.empty(rows, self._plan.hidden) for tap in cache.states.taps}
        for layer in range(self._plan.layers + 1):
            self._taps[layer] = told[layer].data_ptr() if layer in told else None
        self._call.states = self._taps
        return told

    def reads(self, cache: StaticCache) -> bool:
        """Whether this kind of cache is one that the C code knows."""
        return type(cache.parts[0]) in _KINDS

    def ragged(self, ids: torch.Tensor, positions: torch.Tensor, rows: RaggedRows, cache: StaticCache,
               keep: int, embedded: torch.Tensor | None = None) -> torch.Tensor:
        """``ids``, ``positions`` int64 [rows of all sequences] -> float32 logits of the last ``keep`` rows
        of each sequence, one after the other. Writes from each sequence's base on."""
        counts = rows.counts
        end = max(base + n for base, n in zip(rows.bases, counts, strict=True))
        cache.require(end)
        self._bind(cache)
        call, layout = self._call, self._ragged_layout(rows)
        call.rows = layout.rows
        call.ids, call.positions = ids.data_ptr(), positions.data_ptr()
        kept = [min(keep, n) for n in counts]
        self._room(len(counts), rows.most, rows.most, cache.capacity)
        call.keep = keep
        told = self._ask(cache, sum(counts))
        call.input, call.enter = None if embedded is None else embedded.data_ptr(), 0
        self._run()
        if cache.states is not None:
            cache.states.scatter(told, rows)
        cache.rewind(max(cache.length, end))
        return self._logits[:sum(kept)]

    def _ragged_layout(self, rows: RaggedRows) -> Ragged:
        layout = self._raggeds.get(rows.trees)
        if layout is None:
            if len(self._raggeds) > 256:
                self._raggeds.clear()
            layout = self._raggeds[rows.trees] = Ragged(rows.bases, rows.first, rows.trees, rows.slots)
            return layout
        layout.base[:] = [*rows.bases]
        layout.first[:], layout.slot[:] = [*rows.first], [*rows.slots]
        return layout

    def _run(self, first: int = 0, last: int | None = None) -> None:
        plan, layers = self._plan, self._plan.layers if last is None else last
        scratch = self._scratch.data_ptr()
        self.library.wb_set_threads(torch.get_num_threads())
        self._call.prompt = self.prompt
        if self.check is None or first == layers:
            self.library.wb_decoder_run(plan, self._call, first, layers, scratch)
            return
        for layer in range(first, layers):
            self.check()
            self.library.wb_decoder_run(plan, self._call, layer, layer + 1, scratch)

    def _layout(self, batch: int, rows: Rows, base: int) -> Layout:
        key = (batch, rows.parents)
        layout = self._layouts.get(key)
        if layout is None:
            if len(self._layouts) > 256:
                self._layouts.clear()
            layout = self._layouts[key] = Layout([0] * batch, [0] * batch, rows.parents)
        for sequence in range(batch):
            layout.base[sequence] = base
            layout.first[sequence] = rows.pads[sequence]
        return layout

    def _bind(self, cache: StaticCache) -> None:
        """The addresses of the cache's buffers; they change when sequences leave it."""
        if self._bound is not None and self._bound[0]() is cache and self._bound[1] == cache.version:
            return
        self._kv = (Kv * len(cache.parts))(*(Kv(*(t.data_ptr() for t in part.buffers()))
                                             for part in cache.parts))
        self._call.kv, self._call.capacity = self._kv, cache.capacity
        self._plan.kv_item = _KINDS[type(cache.parts[0])]
        self._builder.angles(cache.capacity)
        self._bound = (weakref.ref(cache), cache.version)

    def _room(self, batch: int, n: int, keep: int, capacity: int) -> None:
        """Scratch and results for this shape; they grow and stay."""
        shape = (batch, n, capacity)
        if self._scratch_for != shape:
            need = self.library.wb_decoder_scratch(self._plan, *shape)
            if self._scratch.numel() < need:
                self._scratch = torch.empty(need, dtype=torch.uint8)
            self._scratch_for = shape
        if self._logits.shape[0] < batch * keep:
            self._logits = torch.empty(batch * keep, self._plan.vocab)
            self._call.logits = self._logits.data_ptr()
