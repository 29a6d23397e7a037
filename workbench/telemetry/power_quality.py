"""How often a sensor's value really changes, found by watching it.

A sensor that is asked more often than it changes repeats itself; what it averages over and how late
it is follow from nothing that a driver states. So the period is measured before the value is used.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field


@dataclass
class Changes:
    """Times at which a value was first seen to differ from the one before."""

    times: list[float] = field(default_factory=list)
    _last: float | None = None

    def look(self, value: float | None, now_s: float) -> None:
        if value is None:
            return
        if self._last is not None and value != self._last:
            self.times.append(now_s)
        self._last = value

    def period(self) -> float | None:
        """Median gap between changes in seconds; None below two changes.

        The median, because a value that happens to repeat hides one change and doubles one gap."""
        gaps = sorted(b - a for a, b in itertools.pairwise(self.times))
        return gaps[len(gaps) // 2] if gaps else None
