"""One forward of a transformers model, with our positions, masks and cache; nothing implicit.

Works for decoder-only models whose layers are attention over keys and values. Layers with a
recurrent state cannot be rolled back row by row and are refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from workbench.errors import ModelError
from workbench.runtime import attention
from workbench.runtime.cache import StaticCache, full_cache
from workbench.runtime.guard import layers_of
from workbench.runtime.masks import Masks
from workbench.runtime.ragged import RaggedRows
from workbench.runtime.states import captured

if TYPE_CHECKING:
    from workbench.runtime.graphs import Graphs
    from workbench.runtime.guard import Guard
    from workbench.runtime.lean import LeanForward
    from workbench.runtime.native import Executor, RowSet

_RECURRENT = ("linear_attention", "mamba", "recurrent", "conv", "hybrid")


class Forward:
    """A model ready to run: ``forward(ids, positions, mask, cache, keep) -> logits``."""

    def __init__(self, model: Any, device: torch.device, dtype: torch.dtype) -> None:
        self.model, self.device, self.dtype = model, device, dtype
        self.config = model.config.get_text_config()
        self.kinds = set(getattr(self.config, "layer_types", None) or [])
        self._refuse_recurrent()
        self.implementation = attention.install(model)
        heads = self.config.num_attention_heads
        latent = getattr(self.config, "kv_lora_rank", None)
        kv_heads = heads if latent else getattr(self.config, "num_key_value_heads", None) or heads
        folds = self.implementation == attention.NAME
        self.groups = heads // kv_heads if folds else 1
        self.vocab: int = self.config.vocab_size
        self.layers = layers_of(model)
        self.max_positions: int = getattr(self.config, "max_position_embeddings", None) or 1 << 30
        #: Runs forwards of a few rows in one C call; None where ``module_reason`` says why not.
        self.executor: Executor | None = None
        self.module_reason = "not asked for"
        #: Replays steps on a GPU, None where they are launched kernel by kernel.
        self.graphs: Graphs | None = None
        #: Embeddings [k, hidden] of tokens beyond the vocabulary (trained prompt tokens), None without.
        self.prompts: torch.Tensor | None = None

    def execute_natively(self) -> None:
        """From now on steps run in the native executor, where this model has a plan."""
        from workbench.runtime import native

        self.executor, self.module_reason = native.executor_for(self)

    def use_graphs(self) -> None:
        """From now on steps on a GPU are graphs, where the model can be captured."""
        from workbench.runtime.graphs import Graphs

        if self.device.type == "cuda":
            self.graphs = Graphs(self)

    def _refuse_recurrent(self) -> None:
        odd = [k for k in self.kinds if any(word in k for word in _RECURRENT)]
        if odd:
            raise ModelError(f"this model has {odd[0].replace('_', ' ')} layers, whose state cannot "
                             "be rolled back; open a model with attention layers only")

    @property
    def window(self) -> int:
        """Sliding attention's reach, 0 when every layer sees everything."""
        if self.kinds and "sliding_attention" not in self.kinds:
            return 0
        if not self.kinds and not getattr(self.config, "use_sliding_window", True):
            return 0
        return getattr(self.config, "sliding_window", None) or 0

    def places_rows(self, cache: StaticCache) -> bool:
        """Whether every sequence may have its own length at no cost, so that nothing is padded."""
        return self.executor is not None and self.executor.reads(cache)

    def describe(self) -> str:
        """What runs a step, for the report on effective settings."""
        if self.graphs is not None:
            return self.graphs.describe()
        if self.executor is None:
            return f"module by module ({self.module_reason})"
        return self.executor.describe()

    def masks(self, pads: Sequence[int], capacity: int) -> MaskSet | RowSet:
        from workbench.runtime.native import RowSet

        masks = MaskSet(self, pads, capacity)
        return masks if self.executor is None else RowSet(masks, pads)

    def __call__(self, ids: torch.Tensor, positions: torch.Tensor, mask: Any, cache: StaticCache,
                 keep: int) -> torch.Tensor:
        """``ids`` and ``positions`` int64 [B, n] -> logits [B, keep, V] of the last ``keep`` rows.

        Appends n tokens to ``cache``; an exception leaves its length to be rewound by the caller.
        Logits of the executor are float32 and valid until its next forward."""
        from workbench.runtime.native import Rows

        embedded = None if self.prompts is None else self.embed(ids)
        if isinstance(mask, Rows):
            if self.executor is not None and self.executor.takes(mask, ids.shape[0], cache):
                return self.executor(ids, positions, mask, cache, keep,
                                     None if embedded is None else embedded.float().contiguous())
            mask = mask.additive()
        if self.graphs is not None and embedded is None and self.graphs.takes(ids, mask, cache):
            logits = self.graphs(ids, positions, mask, cache, keep)
            if logits is not None:
                return logits
        given = {"input_ids": ids} if embedded is None else {"inputs_embeds": embedded}
        with captured(self.layers, cache.states) as told:
            out = self.model(**given, position_ids=positions, attention_mask=mask,
                             past_key_values=cache, use_cache=True, logits_to_keep=keep)
        if cache.states is not None:
            cache.states.append(told)
        return out.logits

    def enter(self, states: torch.Tensor, layer: int, positions: torch.Tensor, rows: RaggedRows,
              cache: StaticCache) -> torch.Tensor:
        """The layers from ``layer`` on over rows of one sequence whose residual streams are given:
        ``states`` [n, hidden], ``positions`` int64 [n] -> logits [n, V]. The cache's length stays; what
        these rows wrote behind it is overwritten by the next forward."""
        if self.executor is not None and self.executor.reads(cache):
            return self.executor.enter(states.float().contiguous(), layer, positions, rows, cache)
        return self._modules(states, layer, len(self.layers), positions, rows, cache)

    def part(self, states: torch.Tensor, first: int, last: int, positions: torch.Tensor, rows: RaggedRows,
             cache: StaticCache) -> torch.Tensor:
        """As :meth:`enter`, but layers ``first`` to ``last`` only -> the stream [n, hidden] that enters
        layer ``last``, or logits [n, V] where that is the end. Logits of the executor are valid until its
        next forward."""
        if self.executor is not None and self.executor.reads(cache):
            return self.executor.part(states.float().contiguous(), first, last, positions, rows, cache)
        return self._modules(states, first, last, positions, rows, cache)

    def _modules(self, states: torch.Tensor, first: int, last: int, positions: torch.Tensor,
                 rows: RaggedRows, cache: StaticCache) -> torch.Tensor:
        length, n = cache.length, len(positions)
        x, mask, places = states.to(self.dtype)[None], rows.additive(), positions[None]
        decoder = self.model.get_decoder()
        turns = decoder.rotary_emb(x, places)
        cache.open(rows.slots, rows.bases, n)
        try:
            for one in self.layers[first:last]:
                out = one(x, attention_mask=mask, position_ids=places, past_key_values=cache,
                          use_cache=True, position_embeddings=turns)
                x = out[0] if isinstance(out, tuple) else out
        finally:
            cache.close(length)
        return x[0] if last < len(self.layers) else self.model.get_output_embeddings()(decoder.norm(x))[0]

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """int64 [...] -> [..., hidden]; ids beyond the vocabulary are ``prompts``."""
        table = self.model.get_input_embeddings()
        beyond = ids >= table.num_embeddings
        out = table(ids.masked_fill(beyond, 0))
        if self.prompts is not None and bool(beyond.any()):
            out[beyond] = self.prompts[ids[beyond] - table.num_embeddings].to(out.dtype)
        return out

    def warm(self) -> None:
        """One forward over one token by each way that will be used, its result thrown away."""
        zero = torch.zeros(1, 1, dtype=torch.long, device=self.device)
        for masks in (MaskSet(self, [0], 1), *([self.masks([0], 1)] if self.executor else ())):
            cache = full_cache(self.config, 1, 1, self.device, self.dtype)
            self(zero, zero, masks.rows(0, 1), cache, 1)
        self.synchronize()

    @contextlib.contextmanager
    def guarded(self, guard: Guard) -> Iterator[None]:
        """Check for a cancellation before every layer while this is open."""
        with guard.between_layers(self.model):
            if self.executor is not None:
                self.executor.check = guard.check
            try:
                yield
            finally:
                if self.executor is not None:
                    self.executor.check = None

    def synchronize(self) -> None:
        """Wait for the device, so that a clock read afterwards means something."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@contextlib.contextmanager
def reading(forward: Any) -> Iterator[None]:
    """The rows of ``forward`` are a prompt's while this is open. The native kernels may then expand weights
    to bfloat16 for many rows at once, which is several times as fast; such rows have bits of their own,
    whatever chunks they come in. Rows that verify or continue a text never do."""
    executor = getattr(forward, "executor", None)
    if executor is None:
        yield
        return
    executor.prompt = True
    try:
        yield
    finally:
        executor.prompt = False


class MaskSet:
    """The masks of one generation, in the form this architecture takes."""

    def __init__(self, forward: Forward | LeanForward, pads: Sequence[int], capacity: int) -> None:
        window = forward.window if forward.window < capacity else 0
        ours = forward.implementation == attention.NAME
        self.block = attention.COLUMN_BLOCK if ours and forward.device.type == "cpu" else 1

        def make(window: int) -> Masks:
            return Masks(pads, capacity, device=forward.device, dtype=forward.dtype,
                         groups=forward.groups, window=window, block=self.block)

        # Models that mix full and sliding layers take a dictionary by layer type.
        mixed = window and {"full_attention", "sliding_attention"} <= forward.kinds
        self._full = make(0 if mixed else window)
        self._sliding = make(window) if mixed else None
        self._explicit = not ours

    def rows(self, base: int, n: int) -> Any:
        return self._both(lambda m: self._given(m.rows(base, n), base, n))

    def tree(self, base: int, parents: Sequence[int], depths: Sequence[int]) -> Any:
        return self._both(lambda m: self._given(m.tree(base, parents, depths), base,
                                                len(parents) + 1))

    def ragged(self, slots: Sequence[int], bases: Sequence[int], trees: Sequence[Sequence[int]]
               ) -> RaggedRows:
        """Rows of sequences with lengths and trees of their own."""
        n = 1 + max(map(len, trees))
        first = tuple(self._full.pads_of(slots))
        return RaggedRows(tuple(slots), tuple(bases), first, tuple(map(tuple, trees)), lambda: self._both(
            lambda m: self._given(m.ragged(slots, bases, trees), max(bases), n)))

    def take(self, sequences: Sequence[int]) -> None:
        for masks in (self._full, self._sliding):
            if masks is not None:
                masks.take(sequences)

    def repad(self, pads: Sequence[int]) -> None:
        """The sequences were moved in the cache: other columns at the left are hidden now."""
        for masks in (self._full, self._sliding):
            if masks is not None:
                masks.repad(pads)

    def _both(self, make: Any) -> Any:
        if self._sliding is None:
            return make(self._full)
        return {"full_attention": make(self._full), "sliding_attention": make(self._sliding)}

    def _given(self, mask: torch.Tensor | None, base: int, n: int) -> torch.Tensor | None:
        """Code that is not ours would invent a mask for None: give it the plain one."""
        if mask is not None or not self._explicit:
            return mask
        full = self._full
        return torch.zeros(1, 1, n, base + n, dtype=full.dtype, device=full.device) if n == 1 else (
            torch.full((n, n), float("-inf"), dtype=full.dtype, device=full.device).triu(1)[None, None])


@contextlib.contextmanager
def inference() -> Any:
    """No autograd; also where a caller's thread had it on."""
    with torch.inference_mode():
        yield
