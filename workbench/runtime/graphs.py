"""Steps as CUDA graphs: one launch per forward, whatever the number of kernels.

A graph's shapes and addresses are fixed, a step's length is not. So a step is made static: ids, positions,
the columns that new keys and values go to and the mask live in buffers, attention sees whole blocks of
BLOCK columns (what lies behind the last token is hidden by the mask), and there is one graph per number of
rows and of blocks. Graphs belong to a cache's buffers and are made anew when those change. What a step
computes is the module's own forward; only who launches it differs.
"""

from __future__ import annotations

import time
import weakref
from typing import TYPE_CHECKING, Any

import torch

from workbench.errors import WorkbenchError
from workbench.runtime.cache import FullLayer, Span, StaticCache

if TYPE_CHECKING:
    from workbench.runtime.forward import Forward

#: Columns of the cache that one graph more covers, and the most rows of a step.
BLOCK, ROWS = 256, 64
#: Forwards before the capture, so that libraries have made their choices and their workspaces.
_WARM = 2


class _Step:
    """One static step: its buffers, and on a GPU its graph."""

    def __init__(
        self,
        forward: Forward,
        cache: StaticCache,
        rows: int,
        shown: int,
        mask: tuple[int, ...],
        keep: int,
    ) -> None:
        batch, device = cache.parts[0].batch, forward.device
        self.forward, self.keep, self.shown = forward, keep, shown
        self.ids = torch.zeros(batch, rows, dtype=torch.long, device=device)
        self.positions = torch.zeros(batch, rows, dtype=torch.long, device=device)
        self.columns = torch.zeros(batch, rows, dtype=torch.long, device=device)
        self.mask = torch.zeros(*mask[:3], shown, dtype=forward.dtype, device=device)
        self.span = Span(torch.arange(batch, device=device)[:, None], self.columns, True, shown)
        self.graph: Any = None
        self.logits: torch.Tensor | None = None

    def fill(
        self, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor | None, base: int
    ) -> None:
        """The next step's values; columns behind its last row are hidden."""
        rows = ids.shape[1]
        self.ids.copy_(ids)
        self.positions.copy_(positions.expand_as(self.positions))
        self.columns.copy_(
            torch.arange(base, base + rows, device=self.columns.device).expand_as(self.columns)
        )
        self.mask[..., base + rows :] = float("-inf")
        if mask is None:  # one row that sees everything
            self.mask[..., : base + rows] = 0.0
        else:
            self.mask[..., : mask.shape[-1]] = mask

    def compute(self, cache: StaticCache) -> torch.Tensor:
        for layer in cache.parts:
            layer.span = self.span
        try:
            out = self.forward.model(
                input_ids=self.ids,
                position_ids=self.positions,
                attention_mask=self.mask,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=self.keep,
            )
        finally:
            for layer in cache.parts:
                layer.span = None
        found: torch.Tensor = out.logits
        return found

    def capture(self, cache: StaticCache, pool: Any) -> None:
        side = torch.cuda.Stream(self.ids.device)
        side.wait_stream(torch.cuda.current_stream(self.ids.device))
        with torch.cuda.stream(side):
            for _ in range(_WARM):
                self.compute(cache)
        torch.cuda.current_stream(self.ids.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            self.logits = self.compute(cache)
        self.graph = graph


class Graphs:
    """Runs a model's steps from graphs. ``replay`` False: static steps without graphs, for machines without
    a GPU to check that a static step computes what an ordinary one does.

    While a profiler looks, steps are launched one by one, so that every kernel has its operator.
    ``reason``: why nothing is captured any more, "" while all is well."""

    def __init__(self, forward: Forward, replay: bool = True) -> None:
        self._forward, self._replay = forward, replay
        self._steps: dict[tuple[Any, ...], _Step] = {}
        self._cache: Any = lambda: None
        self._version = -1
        self._pool: Any = None
        self.reason = ""
        self.captured, self.seconds = 0, 0.0

    def takes(self, ids: torch.Tensor, mask: Any, cache: StaticCache) -> bool:
        """Few rows after a prompt, over a cache in the compute dtype, with one mask for all layers."""
        rows = ids.shape[1]
        if self.reason or rows > ROWS or cache.length == 0 or cache.states is not None:
            return False
        if not ((mask is None and rows == 1) or isinstance(mask, torch.Tensor)):
            return False
        if torch.autograd._profiler_enabled():
            return False
        return all(type(layer) is FullLayer and layer.span is None for layer in cache.parts)

    def __call__(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor | None,
        cache: StaticCache,
        keep: int,
    ) -> torch.Tensor | None:
        """Logits [B, keep, V], valid until the next step of this size; None: run it the ordinary way.

        Raises SettingsError when the rows do not fit into the cache."""
        base, rows = cache.length, ids.shape[1]
        cache.require(base + rows)
        step = self._step(cache, ids, mask, base + rows, keep)
        step.fill(ids, positions, mask, base)
        if not self._replay:
            found = step.compute(cache)
        else:
            if step.graph is None and not self._try(step, cache):
                cache.rewind(base)
                return None
            step.graph.replay()
            assert step.logits is not None
            found = step.logits
        cache.rewind(base + rows)
        return found

    def _step(
        self, cache: StaticCache, ids: torch.Tensor, mask: torch.Tensor | None, end: int, keep: int
    ) -> _Step:
        if self._cache() is not cache or self._version != cache.version:
            self._steps.clear()  # the addresses in them are another cache's
            self._cache, self._version = weakref.ref(cache), cache.version
        shown = min(cache.capacity, -(-end // BLOCK) * BLOCK)
        shape = (1, 1, 1) if mask is None else tuple(mask.shape[:3])
        key = (ids.shape, shape, shown, keep)
        if key not in self._steps:
            self._steps[key] = _Step(self._forward, cache, ids.shape[1], shown, shape, keep)
        return self._steps[key]

    def _try(self, step: _Step, cache: StaticCache) -> bool:
        """Capture; a model that cannot be captured runs as it did, and says why."""
        started = time.perf_counter()
        base = cache.length
        try:
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            step.capture(cache, self._pool)
        except WorkbenchError:
            raise  # cancelled between two layers
        except Exception as error:
            self.reason = (
                f"capturing failed: {(str(error).strip().splitlines() or [type(error).__name__])[0][:120]}"
            )
            self._steps.clear()
            torch.cuda.synchronize(self._forward.device)
            cache.rewind(base)
            return False
        self.captured += 1
        self.seconds += time.perf_counter() - started
        return True

    def describe(self) -> str:
        if self.reason:
            return f"module by module (CUDA graphs: {self.reason})"
        return (
            f"CUDA graphs, one launch per step of up to {ROWS} rows ({self.captured} captured in "
            f"{1e3 * self.seconds:.0f} ms)"
        )
