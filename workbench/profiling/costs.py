"""Bytes, FLOPs and live memory of one forward, from the shapes that really pass through it.

Every operator call below autograd goes through a dispatch mode: FLOPs by torch's own formulas
(``torch.utils.flop_counter``; a multiply and an add are two), bytes as the sizes of the tensors it
reads and writes, each once. What only makes a view moves nothing. Live memory is counted by storage,
from the call that made it to its release, so the peak is that of the activations.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from workbench.profiling.inputs import Call
from workbench.profiling.paths import Paths


@dataclass
class Cost:
    """Of all calls of one operator in one module. ``flops`` 0: torch has no formula, or none needed."""

    calls: int = 0
    bytes: int = 0
    flops: int = 0
    dtype: str = ""


@dataclass
class Costs:
    """``ops``: (module number, operator) -> cost of one forward. ``timeline``: (seconds, module
    number, bytes that activations hold) where a module ends. ``peak_bytes`` is over all moments."""

    ops: dict[tuple[int, str], Cost] = field(default_factory=dict)
    timeline: list[tuple[float, int, int]] = field(default_factory=list)
    peak_bytes: int = 0

    @property
    def flops(self) -> int:
        return sum(c.flops for c in self.ops.values())

    @property
    def bytes(self) -> int:
        return sum(c.bytes for c in self.ops.values())


def count(module: Any, call: Call, paths: Paths, clock: Callable[[], float] = time.perf_counter
          ) -> Costs:
    """One forward under the dispatch mode. Not a timing: the mode makes it slow."""
    mode = _mode()(module, call, clock, paths)
    paths.listen(mode)
    try:
        with mode:
            output = module(*call.args, **call.kwargs)
            mode.note(0)
        del output
    finally:
        paths.silence()
    return mode.costs


def _mode() -> type:
    """The dispatch mode, made here so that importing this module needs no torch."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from torch.utils.flop_counter import flop_registry

    formulas = {**_more_formulas(), **flop_registry}

    class Counting(TorchDispatchMode):
        """Listens to modules and operators."""

        def __init__(self, module: Any, call: Call, clock: Callable[[], float], paths: Paths) -> None:
            super().__init__()
            self.costs, self._clock = Costs(), clock
            self._open = [0]
            self._live = 0
            held = [*module.parameters(), *module.buffers(), *call.tensors()]
            self._known: set[int] = {t.untyped_storage()._cdata for t in held}

        def enter(self, index: int) -> None:
            self._open.append(index)

        def leave(self, index: int) -> None:
            if len(self._open) > 1:
                self._open.pop()
            self.note(index)

        def note(self, index: int) -> None:
            self.costs.timeline.append((self._clock(), index, self._live))

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            outputs = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
            for t in outputs:
                self._hold(t)
            if not func.is_view:
                reads = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
                self._add(func, args, kwargs or {}, out, reads, outputs)
            return out

        def _add(self, func: Any, args: Any, kwargs: Any, out: Any, reads: list[Any],
                 outputs: list[Any]) -> None:
            cost = self.costs.ops.setdefault((self._open[-1], func._schema.name), Cost())
            cost.calls += 1
            cost.bytes += sum({id(t): size(t) for t in [*reads, *outputs]}.values())
            formula = formulas.get(func.overloadpacket)
            if formula is not None:
                cost.flops += int(formula(*args, **kwargs, out_val=out))
            named = next((t.dtype for t in reads if t.is_floating_point()), None) or next(
                (t.dtype for t in outputs), None)
            cost.dtype = str(named).removeprefix("torch.")

        def _hold(self, tensor: Any) -> None:
            try:
                storage = tensor.untyped_storage()
            except (NotImplementedError, RuntimeError):  # a tensor without one (sparse)
                return
            key = storage._cdata
            if key in self._known:
                return
            self._known.add(key)
            self._live += storage.nbytes()
            self.costs.peak_bytes = max(self.costs.peak_bytes, self._live)
            weakref.finalize(storage, self._drop, key, storage.nbytes())

        def _drop(self, key: int, nbytes: int) -> None:
            self._known.discard(key)
            self._live -= nbytes

    return Counting


def _more_formulas() -> dict[Any, Callable[..., int]]:
    """Operators that torch's table lacks. A transform of n points does 5 n log2(n), half for real ones."""
    import math

    import torch
    from torch.utils.flop_counter import sdpa_flop_count

    ops = torch.ops.aten

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(query.shape, key.shape, value.shape))

    def fourier(x: Any, dim: Any, *_: Any, out_val: Any = None, **__: Any) -> int:
        points = max(x.numel(), out_val.numel())
        line = math.prod(max(x.shape[d], out_val.shape[d]) for d in dim)
        real = not (x.is_complex() and out_val.is_complex())
        return int((2.5 if real else 5.0) * points * math.log2(max(2, line)))

    def product(a: Any, b: Any, *_: Any, **__: Any) -> int:
        return int(2 * a.shape[0] * a.shape[1] * b.shape[1])

    return {ops._scaled_dot_product_flash_attention_for_cpu: attention, ops._fft_r2c: fourier,
            ops._fft_c2r: fourier, ops._fft_c2c: fourier, ops._int_mm: product}


def size(tensor: Any) -> int:
    """Bytes that reading the tensor once moves: an expanded dimension (stride 0) counts once."""
    import math

    if tensor.layout.__str__() != "torch.strided":
        return int(tensor.numel() * tensor.element_size())
    shape = [n for n, s in zip(tensor.shape, tensor.stride(), strict=True) if s != 0 or n == 0]
    return int(math.prod(shape) * tensor.element_size())
