"""How long one row takes through a matrix of each shape and scheme, measured on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import torch

from workbench.errors import Cancelled
from workbench.events import Event, Progress
from workbench.sensitivity.plan import scheme, short

#: Copies together exceed the caches by this much, as a model's own matrices do.
_BYTES = 96 << 20
_MOST_COPIES = 64


def times(shapes: Iterable[tuple[int, int]], methods: Iterable[str], emit: Callable[[Event], None],
          cancelled: Callable[[], bool] | None = None, device: str = "cpu", rounds: int = 5
          ) -> dict[tuple[int, int, str], float]:
    """Seconds per product by (rows, columns, scheme): the median over ``rounds``, schemes interleaved.

    Every copy is read once per round, so the weights come from memory where a model's would. Emits
    ``Progress`` ("timing"). Raises Cancelled."""
    names = list(dict.fromkeys(short(scheme(m)) for m in methods))
    every = sorted(set(shapes))
    found: dict[tuple[int, int, str], float] = {}
    for done, (rows, columns) in enumerate(every):
        emit(Progress(what="timing", done=done, total=len(every), detail=f"{rows} x {columns}"))
        if cancelled is not None and cancelled():
            raise Cancelled("measuring the kernels was cancelled")
        found.update({(rows, columns, n): s for n, s in _shape(rows, columns, names, device, rounds).items()})
    emit(Progress(what="timing", done=len(every), total=len(every), detail="done"))
    return found


def _shape(rows: int, columns: int, names: list[str], device: str, rounds: int) -> dict[str, float]:
    weight = torch.randn(rows, columns, device=device)
    sets = {}
    for name in names:
        method = scheme(name)
        dtype = getattr(torch, method.compute_dtype)
        count = max(1, min(_MOST_COPIES, _BYTES // max(1, method.storage_bytes(rows, columns)) // len(names)))
        sets[name] = ([method.pack(weight.to(dtype), None) for _ in range(count)],
                      torch.randn(1, columns, device=device, dtype=dtype))
    measured: dict[str, list[float]] = {n: [] for n in names}
    with torch.inference_mode():
        for number in range(rounds + 1):
            for name, (modules, x) in sets.items():
                began = time.perf_counter()
                for module in modules:
                    module(x)
                if device != "cpu":
                    torch.cuda.synchronize()
                if number:  # the first round warms up
                    measured[name].append((time.perf_counter() - began) / len(modules))
    return {n: sorted(m)[len(m) // 2] for n, m in measured.items()}
