"""One sensor's readings as joules over time, with an error bar on every difference.

A counter's reading is the energy at its last update, so it is late by between nothing and one period:
times are moved back by half a period and the rest, uniform over a period, is uncertainty (its standard
deviation is period / sqrt(12), times the power). The query itself takes time, and between two readings
the power may have stepped. Powers without a counter are integrated; a trailing average is moved back
by half of what it averages over. None of this covers the sensor's calibration: NVML's is ± 5 %.
"""

from __future__ import annotations

import bisect
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from workbench import events as ev

#: What NVML's averaged field averages over on parts since Ampere, GA100 excepted (NVML's reference).
NVML_WINDOW_S = 1.0
_SQRT12 = math.sqrt(12)


@dataclass(frozen=True)
class Joules:
    """``value`` ± ``se`` (one standard deviation of what the sensor leaves open)."""

    value: float
    se: float

    def __add__(self, other: Joules) -> Joules:
        return Joules(self.value + other.value, math.hypot(self.se, other.se))

    def times(self, factor: float) -> Joules:
        return Joules(self.value * factor, self.se * abs(factor))


@dataclass(frozen=True)
class Curve:
    """Cumulated joules at ``t`` (seconds on the run's clock, lag removed). ``tau_s``: standard deviation
    of a reading's time; ``noise_j``: of the integral between neighbours, per point (0 for a counter);
    ``window_s``: what each reading averages over (0: nothing)."""

    t: tuple[float, ...]
    j: tuple[float, ...]
    tau_s: float
    noise_j: tuple[float, ...]
    kind: str
    window_s: float = 0.0

    def between(self, start_s: float, end_s: float) -> Joules:
        """Joules of a window; the errors of its two ends are independent."""
        first, a = self._sharp(start_s)
        last, b = self._sharp(end_s)
        inside = [n for t, n in zip(self.t, self.noise_j, strict=True) if start_s < t <= end_s]
        return Joules(max(0.0, last - first),
                      math.sqrt(a * a + b * b + sum(n * n for n in inside)))

    def _slope(self, i: int) -> float:
        """Mean watts between points i and i + 1, the nearest pair at the ends."""
        i = min(max(i, 0), len(self.t) - 2)
        return (self.j[i + 1] - self.j[i]) / (self.t[i + 1] - self.t[i])

    def _sharp(self, t: float) -> tuple[float, float]:
        """As :meth:`_at`, less what averaging smears: a step of the power at ``t`` becomes a ramp as long
        as the window, which moves step x window / 8 joules over ``t``. Believed by half, because the
        step may be elsewhere in the window."""
        joules, se = self._at(t)
        if not self.window_s:
            return joules, se
        before, after = (self._slope(bisect.bisect_right(self.t, t + d) - 1)
                         for d in (-0.75 * self.window_s, 0.75 * self.window_s))
        moved = (before - after) * self.window_s / 8
        return joules + moved, math.hypot(se, moved / 2)

    def _at(self, t: float) -> tuple[float, float]:
        """(cumulated joules at ``t``, standard deviation)."""
        last = len(self.t) - 1
        i = bisect.bisect_right(self.t, t) - 1
        if i < 0 or i >= last:  # outside: go on with the nearest power, and doubt it
            edge = 0 if i < 0 else last
            watts = self._slope(i)
            away = t - self.t[edge]
            doubt = abs(away) * max(self._spread(), 0.1 * watts)
            return self.j[edge] + watts * away, math.hypot(self.tau_s * watts, doubt)
        watts, gap, into = self._slope(i), self.t[i + 1] - self.t[i], t - self.t[i]
        chord = self.j[i] + watts * into
        before, after = self._slope(i - 1), self._slope(i + 1)
        step = abs(before - after)
        timing = self.tau_s * max(watts, (before + after) / 2)
        # If the power steps exactly here, both neighbours' lines meet here; else the line between the
        # readings is as good as any, and can be wrong by step * gap / 4.
        left = self.j[i] + before * into
        right = self.j[i + 1] - after * (gap - into)
        if 0 < i < last - 1 and step * gap / 4 > 2 * timing and abs(left - right) < 0.5 * step * gap:
            meet = (left * (gap - into) + right * into) / gap
            return meet, math.hypot(timing, abs(left - right) / _SQRT12)
        return chord, math.hypot(timing, step * gap / 4 / math.sqrt(3))

    def _spread(self) -> float:
        """How much the power moves over the series: a third of its range, W."""
        slopes = [self._slope(i) for i in range(len(self.t) - 1)]
        return (max(slopes) - min(slopes)) / 3

    @property
    def span(self) -> tuple[float, float]:
        return self.t[0], self.t[-1]


@dataclass(frozen=True)
class Series:
    """One sensor: its readings in order and what is known of it."""

    device: str
    source: str
    readings: tuple[ev.Power, ...]
    status: ev.SensorStatus | None

    @property
    def measured(self) -> bool:
        return all(e.quality == "measured" for e in self.readings)

    @property
    def period_s(self) -> float | None:
        """Of the counter, or of the power field that stands in for it."""
        s = self.status
        if s is None:
            return None
        if any(e.energy_j is not None for e in self.readings):
            return s.period_s
        instant = any(e.instant_w is not None for e in self.readings)
        return (s.instant_period_s if instant else s.average_period_s) or s.period_s

    def counter(self) -> Curve | None:
        """From the energy counter; None without two different readings of it."""
        points: list[tuple[float, float]] = []
        for e in self.readings:
            if e.energy_j is not None and (not points or e.energy_j > points[-1][1]):
                points.append((e.t_s, e.energy_j))
        if len(points) < 2 or points[-1][0] <= points[0][0]:
            return None
        period = (self.status.period_s if self.status else None) or 0.0
        return _curve(points, period / 2, math.hypot(period, self._took()) / _SQRT12, "counter")

    def integral(self) -> Curve | None:
        """From the instant power, else from the averaged one, by trapezoids; None for a sensor whose
        power is itself a difference of its counter (RAPL), or with fewer than two readings."""
        if self.source.upper() == "RAPL" and any(e.energy_j is not None for e in self.readings):
            return None
        instant = [(e.t_s, e.instant_w) for e in self.readings if e.instant_w is not None]
        watts = instant or [(e.t_s, e.average_w) for e in self.readings if e.average_w is not None]
        if len(watts) < 2 or watts[-1][0] <= watts[0][0]:
            return None
        period, window = self._behind(bool(instant))
        total, points, noise = 0.0, [(watts[0][0], 0.0)], [0.0]
        for (t0, p0), (t1, p1) in pairwise(watts):
            total += (t1 - t0) * (p0 + p1) / 2
            points.append((t1, total))
            noise.append(abs(p1 - p0) * (t1 - t0) / _SQRT12)
        doubt = math.hypot(period, self._took()) / _SQRT12
        return _curve(points, (period + window) / 2, doubt,
                      "instant power" if instant else "averaged power", noise, window)

    def _behind(self, instant: bool) -> tuple[float, float]:
        """(update period, what a reading averages over) of the power field, s."""
        s = self.status
        period = ((s.instant_period_s if instant else s.average_period_s) if s else None) or 0.0
        if instant:
            return period, 0.0
        known = s.window_s if s else None
        return period, known if known is not None else (
            NVML_WINDOW_S if self.source.upper() == "NVML" else 0.0)

    def _took(self) -> float:
        """Median duration of a query, s."""
        took = sorted(e.took_s for e in self.readings if e.took_s is not None)
        return took[len(took) // 2] if took else 0.0


def _curve(points: Sequence[tuple[float, float]], late_s: float, tau_s: float, kind: str,
           noise: Sequence[float] = (), window_s: float = 0.0) -> Curve:
    kept = [(t - late_s, j, n) for (t, j), n in zip(points, noise or [0.0] * len(points), strict=True)]
    # Two readings at one instant have no power between them.
    kept = [p for i, p in enumerate(kept) if i == 0 or p[0] > kept[i - 1][0]]
    return Curve(tuple(p[0] for p in kept), tuple(p[1] for p in kept), tau_s,
                 tuple(p[2] for p in kept), kind, window_s)


def series_of(events: Iterable[ev.Event]) -> list[Series]:
    """The best sensor of every device: measured before estimated, counters before watts."""
    status: dict[tuple[str, str], ev.SensorStatus] = {}
    readings: dict[tuple[str, str], list[ev.Power]] = defaultdict(list)
    for e in events:
        if isinstance(e, ev.SensorStatus):
            status[e.device, e.source] = e
        elif isinstance(e, ev.Power):
            readings[e.device, e.source].append(e)
    found = []
    for device in dict.fromkeys(d for d, _ in readings):
        mine = [Series(d, s, tuple(sorted(r, key=lambda e: e.t_s)), status.get((d, s)))
                for (d, s), r in readings.items() if d == device]
        found.append(min(mine, key=lambda s: (not s.measured, not any(
            e.energy_j is not None for e in s.readings))))
    return found
