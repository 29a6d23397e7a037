"""One forward over sequences of different lengths, each with a token tree of its own.

The native executor takes such rows as they are: only rows that are asked for are computed. Module by
module they are padded to one rectangle, whose extra rows see themselves only and are thrown away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from workbench.runtime.cache import StaticCache
    from workbench.runtime.forward import Forward
    from workbench.runtime.lean import LeanForward


@dataclass(frozen=True)
class RaggedRows:
    """Sequence b of the forward is ``slots[b]`` of the cache, holds columns ``first[b]`` to ``bases[b]``
    and brings its root and the drafted nodes ``trees[b]`` (parents, -1 is the root)."""

    slots: tuple[int, ...]
    bases: tuple[int, ...]
    first: tuple[int, ...]
    trees: tuple[tuple[int, ...], ...]
    additive: Callable[[], Any]  # makes the mask for a forward that runs module by module

    @property
    def counts(self) -> list[int]:
        """Rows of each sequence."""
        return [1 + len(tree) for tree in self.trees]

    @property
    def most(self) -> int:
        return max(self.counts)


def run(forward: Forward | LeanForward, rows: RaggedRows, ids: Sequence[Sequence[int]],
        places: Sequence[Sequence[int]], cache: StaticCache, last: bool = False) -> list[torch.Tensor]:
    """``ids[b]`` and ``places[b]`` (positions) of each sequence's rows -> its logits [rows, V], or of its
    ``last`` row only [1, V]. Appends the rows to ``cache``; keep what is accepted by ``keep_each``.

    Logits of the native executor are float32 and valid until its next forward."""
    executor = getattr(forward, "executor", None)
    counts = rows.counts
    assert counts == [len(own) for own in ids]  # the executor reads by these
    if executor is not None and executor.reads(cache) and max(counts) <= executor.most_rows:
        if sum(counts) > executor.most_rows:
            return _in_parts(forward, rows, ids, places, cache, last)
        flat = torch.tensor([[t for s in ids for t in s], [p for s in places for p in s]])
        embedded = None if getattr(forward, "prompts", None) is None else (
            forward.embed(flat[0]).float())  # type: ignore[union-attr]
        logits = executor.ragged(flat[0], flat[1], rows, cache, 1 if last else rows.most, embedded)
        return list(logits.split([1] * len(counts) if last else counts))
    logits = _padded(forward, rows, ids, places, cache, last)
    if last and len(set(counts)) == 1:
        return list(logits)
    return [part[n - 1:n] if last else part[:n] for part, n in zip(logits, counts, strict=True)]


def _in_parts(forward: Forward | LeanForward, rows: RaggedRows, ids: Sequence[Sequence[int]],
              places: Sequence[Sequence[int]], cache: StaticCache, last: bool) -> list[torch.Tensor]:
    """The same in several forwards, each over as many sequences as the executor takes at once."""
    most, found = forward.executor.most_rows, []  # type: ignore[union-attr]
    start = 0
    while start < len(ids):
        end, room = start, most
        while end < len(ids) and len(ids[end]) <= room:
            room -= len(ids[end])
            end += 1
        part = slice(start, end)
        some = replace(rows, slots=rows.slots[part], bases=rows.bases[part], first=rows.first[part],
                       trees=rows.trees[part])
        found += [x.clone() for x in run(forward, some, ids[part], places[part], cache, last)]
        start = end
    return found


def _padded(forward: Forward | LeanForward, rows: RaggedRows, ids: Sequence[Sequence[int]],
            places: Sequence[Sequence[int]], cache: StaticCache, last: bool) -> torch.Tensor:
    """Logits [b, most, V] (or [b, 1, V] of the last rows where all have the same number)."""
    most, counts = rows.most, rows.counts
    flat = torch.tensor([[[*s, *[0] * (most - len(s))] for s in ids],
                         [[*p, *[p[0]] * (most - len(p))] for p in places]])
    both = flat.to(forward.device)
    keep = 1 if last and len(set(counts)) == 1 else most
    end = cache.length
    cache.open(rows.slots, rows.bases, most)
    try:
        logits = forward(both[0], both[1], rows.additive(), cache, keep)
    finally:
        cache.close(max(end, *(b + n for b, n in zip(rows.bases, counts, strict=True))))
    return logits
