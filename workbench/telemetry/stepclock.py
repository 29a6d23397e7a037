"""How long forwards take, without a profiler: two readings of a clock per forward.

Forwards under a capture are left out, so that the median says what a forward costs when nobody looks.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from workbench.events import Event, StepTime

#: Forwards kept for the median of one interval.
_KEPT = 4096


@dataclass
class _Sum:
    """One phase since the last report."""

    since_s: float
    forwards: int = 0
    seconds: float = 0.0
    rows: int = 0
    each: list[float] = field(default_factory=list)


class StepClock:
    """``before`` and ``after`` around every forward; reports once a second, between forwards."""

    def __init__(self, emit: Callable[[Event], None], clock: Callable[[], float], every_s: float = 1.0
                 ) -> None:
        self._emit, self._clock, self._every_s = emit, clock, every_s
        self._sums: dict[str, _Sum] = {}
        self._last: dict[str, float] = {}
        self._due_s = 0.0
        self._began = 0.0

    def before(self) -> None:
        self._began = time.perf_counter()

    def after(self, phase: str, rows: int, captured: bool) -> None:
        """``captured``: a profiler was open, so this forward's time is not its own."""
        now = time.perf_counter()
        if captured:
            return
        took = now - self._began
        found = self._sums.get(phase)
        if found is None:
            found = self._sums[phase] = _Sum(self._clock() - took)
        found.forwards += 1
        found.seconds += took
        found.rows += rows
        if len(found.each) < _KEPT:
            found.each.append(took)
        if now >= self._due_s:
            self.flush()
            self._due_s = now + self._every_s

    def middle(self, phase: str) -> float | None:
        """The median forward of this interval so far, or of the last one, seconds."""
        found = self._sums.get(phase)
        return statistics.median(found.each) if found and found.each else self._last.get(phase)

    def flush(self) -> None:
        now, sums = self._clock(), self._sums
        self._last |= {p: statistics.median(s.each) for p, s in sums.items() if s.each}
        self._sums = {}
        for phase, s in sums.items():
            self._emit(StepTime(t_s=now, phase=phase, start_s=s.since_s, end_s=now,
                                forwards=s.forwards, forward_s=s.seconds, rows=s.rows,
                                middle_s=statistics.median(s.each) if s.each else None))
