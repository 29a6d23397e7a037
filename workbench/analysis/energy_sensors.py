"""How good this run's power sensors were, found from their own readings and said in words.

The period is what watching the fields showed (or, for old runs, the gaps between changes in the run);
what the averaged field averages over is found by averaging the counter's power over trailing windows
until it matches; counter and integral of power are compared over the whole run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from workbench import events as ev
from workbench.analysis import energy_badges as badge
from workbench.analysis.energy_series import Curve, Series, series_of
from workbench.units import format_seconds

#: Windows that are tried for the averaged field, s.
_WINDOWS = tuple(round(0.05 * 1.15 ** i, 3) for i in range(29))
#: The match must be this much better than no averaging at all to be believed.
_CLEAR = 0.5
#: A power that moved by less than this share says nothing about averaging.
_MOVED = 0.1


@dataclass(frozen=True)
class Sensor:
    """One source: what it gave, how often it changes, what it averages over, whether its two ways to
    joules agree. ``disagreement``: integral / counter - 1 over the run. ``words``: all of it, said."""

    device: str
    source: str
    available: bool
    quality: str
    period_s: float | None
    instant_period_s: float | None
    average_period_s: float | None
    window_s: float | None
    window_basis: str
    asked_every_s: float | None
    counter_j: float | None
    integral_j: float | None
    words: tuple[str, ...]

    @property
    def disagreement(self) -> float | None:
        if not self.counter_j or self.integral_j is None:
            return None
        return self.integral_j / self.counter_j - 1


def sensors(events: Sequence[ev.Event]) -> list[Sensor]:
    """Every source that this run knew of, present ones first."""
    found = [_present(s) for s in series_of(events)]
    have = {(s.device, s.source) for s in found}
    last = {(e.device, e.source): e for e in events if isinstance(e, ev.SensorStatus)}
    return found + [_silent(e) for key, e in last.items() if key not in have]


def _silent(e: ev.SensorStatus) -> Sensor:
    why = e.reason or "it gave no reading"
    return Sensor(e.device, e.source, e.available and False, e.quality, None, None, None, None, "", None,
                  None, None, (f"{e.device}: no figure from {e.source}: {why}.",))


def _present(s: Series) -> Sensor:
    status = s.status
    counter, integral = s.counter(), s.integral()
    window, basis = window_of(s, counter)
    over = (max(counter.t[0], integral.t[0]), min(counter.t[-1], integral.t[-1])) \
        if counter and integral else (0.0, 0.0)
    both = over[1] > over[0]
    counter_j = counter.between(*over).value if counter and both else None
    integral_j = integral.between(*over).value if integral and both else None
    times = [e.t_s for e in s.readings]
    gaps = sorted(b - a for a, b in pairwise(times))
    found = Sensor(
        s.device, s.source, True, "measured" if s.measured else "estimated",
        status.period_s if status else None, status.instant_period_s if status else None,
        status.average_period_s if status else None, window, basis,
        gaps[len(gaps) // 2] if gaps else None, counter_j, integral_j, ())
    return Sensor(**{**found.__dict__, "words": tuple(_words(found, s))})


def _words(s: Sensor, series: Series) -> list[str]:
    if s.quality == "estimated":
        why = series.status.reason if series.status else "a model, not a sensor"
        return [f"{s.device}: {why}. It is not a measurement; a factor of two is possible."]
    first = f"{s.device} ({s.source}): "
    period = [f"the energy counter changes every {format_seconds(s.period_s)}" if s.period_s else "",
              f"instant power every {format_seconds(s.instant_period_s)}" if s.instant_period_s else "",
              f"averaged power every {format_seconds(s.average_period_s)}" if s.average_period_s else ""]
    said = [first + (", ".join(p for p in period if p) or "its period was not seen")
            + (f"; it was read every {format_seconds(s.asked_every_s)}." if s.asked_every_s else ".")]
    if s.window_s is not None and s.window_basis:
        said.append(f"Its averaged power is a mean over the last {format_seconds(s.window_s)} "
                    f"({s.window_basis}), so it answers late.")
    if s.disagreement is not None:
        mark = badge.disagreement(s.counter_j or 0.0, s.integral_j or 0.0)
        said.append(f"The {mark}; the counter is used, and the truth may lie between them." if mark else
                    f"Counter and integral of power agree within {100 * badge.DISAGREE:.0f} % "
                    f"({round(100 * s.disagreement, 1) + 0.0:+.1f} %).")
    elif s.counter_j is None and series.counter() is None:
        said.append("There is no energy counter; joules are the integral of its power.")
    return said


def window_of(s: Series, counter: Curve | None) -> tuple[float | None, str]:
    """(what the averaged field averages over in s, how that is known); (None, "") when it cannot be
    told: no averaged field, no counter or instant power beside it, or a power that never moved.

    For every window, the mean power that the counter (else the instant field) saw in it is compared
    with the averaged reading at its end; the best match wins if it is clear."""
    if s.status is not None and s.status.window_s is not None:
        return s.status.window_s, "stated with the sensor"
    averaged = [(e.t_s, e.average_w) for e in s.readings if e.average_w is not None]
    truth = counter or _instant(s)
    if s.source.upper() == "RAPL" or truth is None or len(averaged) < 8:
        return None, ""
    watts = [w for _, w in averaged]
    if max(watts) - min(watts) < _MOVED * max(watts):
        return None, ""
    errors: dict[float, float] = {}
    for window in _WINDOWS:
        usable = [(t, w) for t, w in averaged if t - window >= truth.t[0] and t <= truth.t[-1]]
        if len(usable) < 6 or usable[0][0] > averaged[0][0] + 0.5 * (averaged[-1][0] - averaged[0][0]):
            break
        errors[window] = math.sqrt(sum(
            (w - truth.between(t - window, t).value / window) ** 2 for t, w in usable) / len(usable))
    if len(errors) < 3:
        return None, ""
    best = min(errors, key=lambda w: errors[w])
    worst = max(errors.values())
    if best in (min(errors), max(errors)) or errors[best] > _CLEAR * worst:
        return None, ""
    return best, "found by matching it with " + ("the counter" if counter else "instant power")


def _instant(s: Series) -> Curve | None:
    if not any(e.instant_w is not None for e in s.readings):
        return None
    return s.integral()
