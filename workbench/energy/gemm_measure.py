"""Measuring matrix products on this machine, as a model does them: weights out of memory, not out of cache.

The right operand goes round copies that together exceed the last cache; the left one (activations) stays
warm. Each product runs until its time is known (at least five times and 20 ms), the median counts. With
a power sensor, products run long enough for it (ten periods, two seconds) and the window's joules are kept.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from workbench.energy.gemm import ITEM_BYTES, Product

if TYPE_CHECKING:
    import torch

#: Together more than a server's last-level cache; an L2 of a GPU is far smaller.
ROTATE_BYTES = 192 << 20
_MIN_S, _MIN_CALLS = 0.02, 5
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def grid(count: int, dtypes: tuple[str, ...], most_flops: float, seed: int = 0) -> list[Product]:
    """``count`` shapes, each in every dtype: rows as in decoding and prefill, sides from 64 to 8192 spread
    evenly in logarithm, most of them multiples of 64 and some of nothing. Pure."""
    rng = random.Random(seed)
    found: dict[tuple[int, int, int], None] = {}
    while len(found) < count:
        m = rng.choice(ROWS)
        step = rng.choice((64, 64, 64, 8, 1))
        n, k = (max(step, round(2 ** rng.uniform(6, 13) / step) * step) for _ in range(2))
        if 2.0 * m * n * k <= most_flops and 4 * n * k <= 128 << 20:
            found[m, n, k] = None
    return [Product(*shape, dtype) for shape in found for dtype in dtypes]


def measure(products: list[Product], device: str = "cpu", seconds: float = 120.0,
            progress: Callable[[int, int], None] = lambda done, total: None,
            cancelled: Callable[[], bool] = lambda: False, sensors: list[Any] | None = None
            ) -> list[Product]:
    """The products with ``seconds`` (and ``watts`` where a sensor gave them), as many as the time allows.

    ``sensors``: live sensors of the device. Stops at the time limit or when cancelled; what was measured
    is returned."""
    import torch

    target = torch.device(device)
    end = time.monotonic() + seconds
    found: list[Product] = []
    with torch.inference_mode():
        for i, product in enumerate(products):
            if cancelled() or time.monotonic() > end:
                break
            call = _call(product, target)
            took = _time(call, target)
            watts = _power(call, target, sensors) if sensors else None
            found.append(replace(product, seconds=took, watts=watts))
            progress(i + 1, len(products))
    return found


def _call(p: Product, device: torch.device) -> Callable[[], None]:
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[p.dtype]
    a = torch.randn(p.m, p.k, device=device).to(dtype)
    copies = max(1, min(64, ROTATE_BYTES // max(1, ITEM_BYTES[p.dtype] * p.n * p.k)))
    one = torch.randn(p.n, p.k, device=device).to(dtype)
    weights = [one, *(one.clone() for _ in range(copies - 1))]
    turn = 0

    def call() -> None:
        nonlocal turn
        torch.nn.functional.linear(a, weights[turn % copies])
        turn += 1

    return call


def _time(call: Callable[[], None], device: torch.device) -> float:
    """Median seconds of one product. On a GPU several are queued between two synchronizations."""
    call()
    _wait(device)
    inner = 1 if device.type == "cpu" else 20
    took: list[float] = []
    while len(took) < _MIN_CALLS or sum(took) * inner < _MIN_S:
        began = time.perf_counter()
        for _ in range(inner):
            call()
        _wait(device)
        took.append((time.perf_counter() - began) / inner)
    return statistics.median(took)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def _power(call: Callable[[], None], device: torch.device, sensors: list[Any], least_s: float = 2.0
           ) -> float | None:
    """Mean watts while the product repeats for two seconds or ten sensor periods; None where a sensor has
    no counter."""
    watts = 0.0
    period = max((s.status().period_s or 0.0) for s in sensors)
    call()
    before = [s.read() for s in sensors]
    began = time.perf_counter()
    while time.perf_counter() - began < max(least_s, 10 * period):
        for _ in range(10):
            call()
        _wait(device)
    after = [s.read() for s in sensors]
    elapsed = time.perf_counter() - began
    for a, b in zip(before, after, strict=True):
        if a.energy_j is None or b.energy_j is None:
            return None
        watts += (b.energy_j - a.energy_j) / elapsed
    return watts
