"""How busy the processors are and how much of that is somebody else's work."""

from __future__ import annotations

import os
import time
from pathlib import Path

#: Linux counts in ticks of 10 ms; a share over less than this is mostly rounding.
MIN_S = 0.4
STAT = Path("/proc/stat")


class Load:
    """``busy``: share of all cores' time that was not idle; ``others``: share of that busy time that
    other processes (or, on a virtual machine, other guests) had. None until half a second has passed,
    and where the system does not tell."""

    def __init__(self, stat: Path = STAT) -> None:
        self._stat = stat
        self.busy: float | None = None
        self.others: float | None = None
        self._last = self._now()

    def update(self) -> None:
        """Ask again; cheap, and a no-op more often than every ``MIN_S``."""
        if self._last is None or time.monotonic() - self._last[0] < MIN_S:
            return
        now = self._now()
        if now is None:
            return
        busy, whole, mine = (b - a for a, b in zip(self._last[1:], now[1:], strict=True))
        self._last = now
        if whole > 0:
            self.busy = min(1.0, busy / whole)
            self.others = min(1.0, max(0.0, 1 - mine / busy)) if busy > 0.05 * whole else None

    def _now(self) -> tuple[float, float, float, float] | None:
        """(time, busy seconds of all cores, all seconds, seconds of this process and its children)."""
        try:
            ticks = [int(x) for x in self._stat.read_text().split("\n", 1)[0].split()[1:9]]
            hertz = os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError, AttributeError):
            return None
        times = os.times()
        whole = sum(ticks) / hertz
        idle = (ticks[3] + ticks[4]) / hertz
        return (time.monotonic(), whole - idle, whole,
                times.user + times.system + times.children_user + times.children_system)
