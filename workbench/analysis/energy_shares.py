"""Joules by kernel class and by layer: a phase's joules divided by the time of its kernels.

No sensor resolves a kernel, so the division assumes that a phase's power is the same for all of its
kernels. How wrong that can be is bounded and shown: no kernel draws less than idle power or more than
the most that the sensor saw, so ``low_j`` and ``high_j`` enclose the truth; ``se`` is only the
statistical part (the phase's own error and how much the shares vary between capture windows).
"""

from __future__ import annotations

import bisect
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from workbench import events as ev
from workbench.analysis.energy_phases import PhaseEnergy, phases

Name = Callable[[ev.Kernel], str]
#: Share of a phase in no kernel (launch gaps, host work) under this name.
BETWEEN = "between kernels"


@dataclass(frozen=True)
class Share:
    """One class or layer of one phase. ``share`` of the phase's time, ``per_token`` in J/token."""

    phase: str
    name: str
    share: float
    joules: float
    se: float
    low_j: float
    high_j: float
    tokens: int

    @property
    def per_token(self) -> float | None:
        return self.joules / self.tokens if self.tokens else None


def by_class(events: Sequence[ev.Event]) -> list[Share]:
    """Matmul, attention, norm ... of every phase with energy and captured kernels, largest first."""
    return _shares(events, lambda k: k.cls)


def by_layer(events: Sequence[ev.Event]) -> list[Share]:
    """Layer by layer; ``outside layers`` is embedding, head, sampling."""
    return sorted(_shares(events, lambda k: f"layer {k.layer:02d}" if k.layer >= 0
                          else "outside layers"), key=lambda s: (s.phase, s.name))


def _shares(events: Sequence[ev.Event], name_of: Name) -> list[Share]:
    """Largest first. Empty without kernels or without energy."""
    windows = _windows(events)
    peak, idle = _power_bounds(events)
    found: list[Share] = []
    for phase in phases(events):
        if phase.joules is None or not phase.seconds:
            continue
        seen = [w for w in windows.values() if w.phase == phase.phase]
        rows = [w.shares(name_of) for w in seen]
        for name in sorted({n for r in rows for n in r}):
            found.append(_one(phase, name, [r.get(name, 0.0) for r in rows], peak, idle))
    return sorted(found, key=lambda s: -s.joules)


def _one(phase: PhaseEnergy, name: str, shares: list[float], peak: float | None, idle: float | None
         ) -> Share:
    n = len(shares)
    share = sum(shares) / n
    spread = math.sqrt(sum((s - share) ** 2 for s in shares) / (n - 1) / n) if n > 1 else share
    joules = share * (phase.joules or 0.0)
    se = math.hypot(share * (phase.se or 0.0), spread * (phase.joules or 0.0))
    mean = phase.watts or 0.0
    seconds = share * phase.seconds
    return Share(phase.phase, name, share, joules, se, seconds * min(idle or 0.0, mean),
                 max(joules, seconds * (peak or mean)), phase.tokens)


@dataclass
class _Window:
    phase: str
    seconds: float
    kernels: list[ev.Kernel]

    def shares(self, name_of: Name) -> dict[str, float]:
        """Name -> share of the window's time; what no kernel had is ``BETWEEN``.

        Kernels that overlap (several threads, streams) can exceed the window; then they are
        divided among themselves."""
        busy: dict[str, float] = defaultdict(float)
        for k in self.kernels:
            busy[name_of(k)] += k.total_s
        whole = max(self.seconds, sum(busy.values()))
        if whole <= 0:
            return {}
        found = {n: s / whole for n, s in busy.items()}
        rest = 1 - sum(found.values())
        return {**found, BETWEEN: rest} if rest > 1e-9 else found


def _windows(events: Iterable[ev.Event]) -> dict[tuple[int, str], _Window]:
    """(window, phase) -> its kernels and how long such a forward takes."""
    spans = {e.window: (e.start_s, e.end_s) for e in events if isinstance(e, ev.KernelWindow)}
    forwards = [e for e in events if isinstance(e, ev.Phase)]
    free = _free(forwards, sorted(spans.values()))
    found: dict[tuple[int, str], _Window] = {}
    for e in events:
        if isinstance(e, ev.Kernel):
            key = (e.window, e.phase)
            if key not in found:
                watched = _inside(forwards, e.phase, spans.get(e.window))
                found[key] = _Window(e.phase, min(watched, free.get(e.phase, watched)), [])
            found[key].kernels.append(e)
    return found


def _free(forwards: list[ev.Phase], spans: list[tuple[float, float]]) -> dict[str, float]:
    """Phase -> median seconds of a forward that no profiler watched: a watched one is slower, and what
    watching costs is in no kernel."""
    starts = [a for a, _ in spans]
    took: dict[str, list[float]] = defaultdict(list)
    for p in forwards:
        i = bisect.bisect_right(starts, p.end_s) - 1
        if i < 0 or spans[i][1] <= p.start_s:
            took[p.phase].append(p.end_s - p.start_s)
    return {phase: sorted(t)[len(t) // 2] for phase, t in took.items()}


def _inside(forwards: list[ev.Phase], phase: str, span: tuple[float, float] | None) -> float:
    """Seconds of the phase's forwards in a window (a window is one forward)."""
    if span is None:
        return 0.0
    start, end = span
    return sum(max(0.0, min(p.end_s, end) - max(p.start_s, start))
               for p in forwards if p.phase == phase)


def _power_bounds(events: Iterable[ev.Event]) -> tuple[float | None, float | None]:
    """(most watts seen, idle watts) over the measured devices; None where unknown."""
    peaks: dict[str, float] = {}
    idle: dict[str, float] = {}
    for e in events:
        if isinstance(e, ev.Power):
            watts = e.instant_w if e.instant_w is not None else e.average_w
            if watts is not None:
                peaks[e.device] = max(peaks.get(e.device, 0.0), watts)
        elif isinstance(e, ev.SensorStatus) and e.idle_w is not None:
            idle[e.device] = e.idle_w
    return sum(peaks.values()) or None, sum(idle.values()) or None
