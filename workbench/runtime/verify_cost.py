"""What one forward of n rows takes with the model that is loaded, measured once: 1 to 64 rows.

The rows are a chain behind a context of the run's kind of cache; the smallest of interleaved rounds is
taken, since what a busy machine adds is not the model's. A forward over more rows that was faster says that
the rows before it can be had for that price too, so the curve never falls.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from workbench.techniques.decoding._planner import Curve

if TYPE_CHECKING:
    from workbench.events import Event
    from workbench.runtime.cache import StaticCache
    from workbench.runtime.guard import Guard
    from workbench.runtime.model import Model
    from workbench.settings import Settings

#: In this order: whatever the time allows, the ends are known.
_ROWS = (1, 64, 16, 4, 32, 8, 2, 48, 24, 12, 3, 6)
_LEAST = 3  # sizes that are measured whatever they take
_BUDGET_S, _ROUNDS = 1.0, 7
#: Tokens in the cache while measuring.
_CONTEXT = 128

_known: weakref.WeakKeyDictionary[Any, dict[tuple[Any, ...], Curve]] = weakref.WeakKeyDictionary()


def curve(model: Model, settings: Settings, guard: Guard,
          emit: Callable[[Event], None] | None = None) -> Curve:
    """Seconds of a forward of the target by its rows, with this kind of cache and number of threads.

    Measured at the first call for a loaded model (about a second, more where a forward is slow). Raises
    Cancelled and OutOfMemory."""
    from workbench.events import Note

    key = (settings.kv, torch.get_num_threads())
    held = _known.setdefault(model.forward, {})
    if key not in held:
        most = min(max(_ROWS), model.forward.max_positions - 1)
        context = min(_CONTEXT, model.forward.max_positions - most)
        found = measure(model.forward, model.cache(settings, 1, context + most), context, guard)
        held[key] = found
        if emit is not None:
            emit(Note(text=f"measured what a verification costs here: {described(found)}"))
    return held[key]


def draft_curve(draft: Any, guard: Guard) -> Curve:
    """The same for a draft model (:class:`workbench.runtime.model.DraftModel`)."""
    key = ("draft", torch.get_num_threads())
    held = _known.setdefault(draft.forward, {})
    if key not in held:
        most = min(16, draft.forward.max_positions - 1)
        context = min(_CONTEXT, draft.forward.max_positions - most)
        held[key] = measure(draft.forward, draft.cache(context + most), context, guard)
    return held[key]


def measure(forward: Any, cache: StaticCache, context: int, guard: Guard) -> Curve:
    """Run chains of rows behind ``context`` cached tokens; the cache's contents are of no account."""
    sizes = [n for n in _ROWS if context + n <= cache.capacity]
    masks = forward.masks([0], cache.capacity)
    cache.show_blocks(masks.block)
    best: dict[int, float] = {}
    started = time.perf_counter()
    for turn in range(1 + _ROUNDS):  # the first is a warm-up, counted only where nothing else is
        for place, n in enumerate(sizes):
            late = time.perf_counter() - started > _BUDGET_S
            if late and (turn > 0 or place >= _LEAST):
                break
            guard.check()
            seconds = _once(forward, masks, cache, context, n)
            best[n] = seconds if turn <= 1 and (turn or n not in best) else min(best[n], seconds)
    return _rising(best)


def _once(forward: Any, masks: Any, cache: StaticCache, context: int, n: int) -> float:
    device = forward.device
    ids = torch.arange(n, device=device)[None] % forward.vocab
    places = torch.arange(context, context + n, device=device)[None]
    cache.rewind(context)
    mask = masks.tree(context, list(range(-1, n - 2)), list(range(1, n)))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    before = time.perf_counter()
    forward(ids, places, mask, cache, n).argmax(-1).tolist()  # the walk needs the result on the host
    return time.perf_counter() - before


def _rising(best: dict[int, float]) -> Curve:
    rows = sorted(best)
    seconds = [best[n] for n in rows]
    for i in range(len(rows) - 2, -1, -1):
        seconds[i] = min(seconds[i], seconds[i + 1])
    return Curve(tuple(rows), tuple(seconds), "measured with the loaded model")


def described(curve: Curve) -> str:
    """``1 row 2.1 ms, 16 rows 3.0 ms, 64 rows 8.7 ms``."""
    shown = [n for n in (1, 4, 16, 64) if n <= curve.most]
    return ", ".join(f"{n} row{'s' * (n > 1)} {curve(n) * 1e3:.3g} ms" for n in shown)
