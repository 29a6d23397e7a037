"""Joules and watts of a run from its power readings, or the reason why there is no number.

A counter's difference beats an integral of watts; a measured source beats an estimated one; a
window shorter than ten of the sensor's periods gets no number, because the first and last reading
alone could be wrong by a tenth (and NVML's averaged power lags by about a second).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from workbench import events as ev

#: Sensor periods that a window must span before its energy is believed.
MIN_PERIODS = 10


@dataclass(frozen=True)
class Energy:
    """``joules`` over ``window_s``; None with a ``reason``. ``quality``: measured or estimated."""

    joules: float | None
    watts: float | None
    window_s: float
    quality: str = "measured"
    reason: str = ""
    devices: tuple[str, ...] = ()


def energy(events: Sequence[ev.Event], start_s: float, end_s: float) -> Energy:
    """Energy of all devices between two times on the run's clock."""
    window = max(0.0, end_s - start_s)
    status = {(e.device, e.source): e for e in events if isinstance(e, ev.SensorStatus)}
    series: dict[tuple[str, str], list[ev.Power]] = defaultdict(list)
    for e in events:
        if isinstance(e, ev.Power):
            series[e.device, e.source].append(e)
    if not series:
        return Energy(None, None, window, reason=_absence(list(status.values())))
    joules, watts, quality, used = 0.0, 0.0, "measured", []
    reasons: list[str] = []
    for device in dict.fromkeys(d for d, _ in series):
        key = min((k for k in series if k[0] == device), key=lambda k: _rank(series[k]))
        sensor = status.get(key)
        part = _series_energy(series[key], sensor.period_s if sensor else None, start_s, end_s)
        if isinstance(part, str):
            reasons.append(f"{device}: {part}")
            continue
        joules, watts = joules + part[0], watts + part[1]
        used.append(device)
        if any(e.quality != "measured" for e in series[key]):
            quality = "estimated"
    if reasons:
        return Energy(None, watts if used else None, window, quality, "; ".join(reasons))
    return Energy(joules, watts, window, quality, "" if quality == "measured" else
                  "estimated from a model of the machine, not measured", tuple(used))


def _absence(sensors: list[ev.SensorStatus]) -> str:
    reasons = list(dict.fromkeys(f"{s.device}: {s.reason}" for s in sensors
                                 if not s.available and s.reason))
    if reasons:
        return "no power sensor (" + "; ".join(reasons) + ")"
    if any(s.available for s in sensors):
        return "the power sensor gave no reading during the run"
    return "power was not read (no sensor, or telemetry.power was off)"


def _rank(readings: list[ev.Power]) -> tuple[bool, bool]:
    """Measured before estimated, counters before watts."""
    return (any(e.quality != "measured" for e in readings),
            not any(e.energy_j is not None for e in readings))


def _series_energy(readings: list[ev.Power], period_s: float | None, start_s: float, end_s: float
                   ) -> tuple[float, float] | str:
    """(joules in the window, mean watts), or why there is none."""
    window = end_s - start_s
    if window <= 0:
        return "the run took no time"
    readings = sorted(readings, key=lambda e: e.t_s)
    inside = [e for e in readings if start_s <= e.t_s <= end_s]
    if period_s and window < MIN_PERIODS * period_s:
        return (f"the run ({window:.2g} s) is shorter than {MIN_PERIODS} sensor periods "
                f"({MIN_PERIODS * period_s:.2g} s); generate more tokens")
    counted = [(e.t_s, e.energy_j) for e in inside if e.energy_j is not None]
    if len(counted) >= 2 and counted[-1][0] > counted[0][0]:
        (t0, j0), (t1, j1) = counted[0], counted[-1]
        covered = t1 - t0
        if covered >= 0.5 * window and j1 >= j0:
            return (j1 - j0) * window / covered, (j1 - j0) / covered
    sampled = [(e.t_s, w) for e in inside
               if (w := e.instant_w if e.instant_w is not None else e.average_w) is not None]
    if len(sampled) < 2:
        return "fewer than two power readings fell into the run; generate more tokens"
    area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2
               for a, b in pairwise(sampled))
    covered = sampled[-1][0] - sampled[0][0]
    if covered < 0.5 * window:
        return "the power readings cover less than half of the run"
    return area * window / covered, area / covered
