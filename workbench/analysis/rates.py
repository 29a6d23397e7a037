"""Tokens per second over time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from workbench import events as ev

#: Seconds of tokens that one point of the curve averages over.
WINDOW_S = 0.5


def rolling_rate(events: Iterable[ev.Event], window_s: float = WINDOW_S
                 ) -> list[tuple[float, float]]:
    """:func:`rate_of` the run's tokens, all sequences together."""
    return rate_of((e.t_s for e in events if isinstance(e, ev.Token)), window_s)


def rate_of(times: Iterable[float], window_s: float = WINDOW_S) -> list[tuple[float, float]]:
    """(time, tok/s over the ``window_s`` before it) at every stream event after the first.

    Tokens of one instant count together; the span is never longer than the time since the first
    token, so that the curve does not begin at zero."""
    bursts: list[tuple[float, int]] = []
    for t in sorted(times):
        if bursts and t - bursts[-1][0] < 1e-6:
            bursts[-1] = (bursts[-1][0], bursts[-1][1] + 1)
        else:
            bursts.append((t, 1))
    found: list[tuple[float, float]] = []
    inside: deque[tuple[float, int]] = deque()
    count = 0
    for t, n in bursts:
        inside.append((t, n))
        count += n
        while len(inside) > 2 and inside[1][0] <= t - window_s:
            count -= inside.popleft()[1]
        start, first = inside[0]
        if t > start:
            found.append((t, (count - first) / (t - start)))
    return found
