"""Joules and watts of a run from its power readings, or the reason why there is no number.

A counter's difference beats an integral of watts; both are kept and a disagreement is shown. A window
shorter than ten of the sensor's periods gets no number. Measured and estimated joules are never added:
where a device is measured, what is estimated for another stands beside it. Energy above idle needs the
idle power of every device that is counted; both figures are kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from workbench import events as ev
from workbench.analysis import energy_badges as badge
from workbench.analysis.energy_series import Curve, Joules, Series, series_of

#: Sensor periods that a window must span before its energy is believed.
MIN_PERIODS = 10
#: Share of a window that readings must cover.
MIN_COVERED = 0.5


@dataclass(frozen=True)
class DeviceEnergy:
    """One device's energy. ``counter_j integral_j``: the two ways, None where one is not possible."""

    device: str
    source: str
    quality: str
    joules: Joules | None
    reason: str = ""
    counter_j: float | None = None
    integral_j: float | None = None
    idle_w: float | None = None
    idle_se_w: float | None = None
    idle_basis: str = ""
    low_j: float | None = None
    high_j: float | None = None
    badges: tuple[str, ...] = ()

    def above_idle(self, seconds: float) -> Joules | None:
        """The joules without what the device draws when it has no work; None without a baseline."""
        if self.joules is None or self.idle_w is None:
            return None
        return Joules(self.joules.value - self.idle_w * seconds,
                      math.hypot(self.joules.se, (self.idle_se_w or 0.0) * seconds))


@dataclass(frozen=True)
class Energy:
    """``joules`` ± ``se`` over ``window_s``; None with a ``reason``. ``quality``: measured or estimated.

    ``net_j``: above idle power, None where it was not measured (``net_reason``). ``parts``: per device;
    ``estimated``: devices that only a model speaks for, not in the sums when others are measured.
    ``low_j high_j``: the range of an estimate. ``badges``: what to know before believing it."""

    joules: float | None
    watts: float | None
    window_s: float
    quality: str = "measured"
    reason: str = ""
    devices: tuple[str, ...] = ()
    se: float | None = None
    net_j: float | None = None
    net_se: float | None = None
    net_reason: str = ""
    low_j: float | None = None
    high_j: float | None = None
    parts: tuple[DeviceEnergy, ...] = ()
    estimated: tuple[DeviceEnergy, ...] = ()
    badges: tuple[str, ...] = ()


def energy(events: Sequence[ev.Event], start_s: float, end_s: float) -> Energy:
    """Energy of all devices between two times on the run's clock."""
    window = max(0.0, end_s - start_s)
    found = series_of(events)
    if not found:
        return Energy(None, None, window, reason=absence(events))
    every = [device_energy(s, start_s, end_s) for s in found]
    measured = tuple(p for p in every if p.quality == "measured")
    counted = measured or tuple(every)
    estimated = tuple(p for p in every if p not in counted)
    quality = "measured" if measured else "estimated"
    badges = tuple(dict.fromkeys(b for p in counted for b in p.badges))
    base = Energy(None, None, window, quality, parts=counted, estimated=estimated, badges=badges)
    if missing := [f"{p.device}: {p.reason}" for p in counted if p.joules is None]:
        return replace(base, watts=_watts(found, start_s, end_s), reason="; ".join(missing))
    return _total(base, counted, window)


def _total(base: Energy, counted: tuple[DeviceEnergy, ...], window: float) -> Energy:
    total = Joules(0.0, 0.0)
    for p in counted:
        total += p.joules or Joules(0.0, 0.0)
    net, why = net_of(counted, window)
    estimate = base.quality == "estimated"
    low, high = (_sum(x) if estimate else None
                 for x in ([p.low_j for p in counted], [p.high_j for p in counted]))
    return replace(
        base, joules=total.value, se=total.se, watts=total.value / window,
        net_j=net.value if net else None, net_se=net.se if net else None, net_reason=why,
        low_j=low, high_j=high, devices=tuple(p.device for p in counted),
        reason="" if not estimate else "estimated from a model of the machine, not measured" + (
            f"; {low:.3g} to {high:.3g} J" if low is not None and high is not None else ""))


def _sum(values: list[float | None]) -> float | None:
    """None when one is missing."""
    known = [v for v in values if v is not None]
    return sum(known) if len(known) == len(values) else None


def net_of(parts: Iterable[DeviceEnergy], seconds: float) -> tuple[Joules | None, str]:
    """(joules above idle of all devices, why there is none)."""
    total = Joules(0.0, 0.0)
    for p in parts:
        above = p.above_idle(seconds)
        if above is None:
            return None, (f"the idle power of {p.device} is not known; measure it with `workbench power "
                          "idle` or with telemetry.idle_s")
        total += above
    return total, ""


def device_energy(series: Series, start_s: float, end_s: float) -> DeviceEnergy:
    """One device between two times: counter and integral, error, idle power, badges."""
    inside = [e for e in series.readings if start_s <= e.t_s <= end_s]
    status = series.status
    base = DeviceEnergy(
        series.device, series.source, "measured" if series.measured else "estimated", None,
        idle_w=status.idle_w if status else None, idle_se_w=status.idle_se_w if status else None,
        idle_basis=status.idle_basis if status else "")
    marks = [badge.throttled(inside), badge.disturbed(inside)]
    if why := _too_short(series, end_s - start_s):
        return replace(base, reason=why, badges=_said([badge.TOO_SHORT, *marks]))
    counter, integral = series.counter(), series.integral()
    a = _covered(counter, start_s, end_s, inside)
    b = _covered(integral, start_s, end_s, inside)
    chosen = a if isinstance(a, Joules) else b
    if not isinstance(chosen, Joules):
        return replace(base, reason=chosen, badges=_said(marks))
    if isinstance(a, Joules) and isinstance(b, Joules):
        marks.append(badge.disagreement(a.value, b.value))
    low, high = ((badge.weighted(inside, n) for n in ("low_w", "high_w"))
                 if base.quality == "estimated" else (None, None))
    return replace(
        base, joules=chosen, badges=_said(marks),
        counter_j=a.value if isinstance(a, Joules) else None,
        integral_j=b.value if isinstance(b, Joules) else None,
        low_j=None if low is None else low * (end_s - start_s),
        high_j=None if high is None else high * (end_s - start_s))


def _said(marks: list[str]) -> tuple[str, ...]:
    return tuple(m for m in marks if m)


def _too_short(series: Series, window_s: float) -> str:
    if window_s <= 0:
        return "the run took no time"
    period = series.period_s
    if period and window_s < MIN_PERIODS * period:
        return (f"the run ({window_s:.2g} s) is shorter than {MIN_PERIODS} sensor periods "
                f"({MIN_PERIODS * period:.2g} s); generate more tokens")
    return ""


def _covered(curve: Curve | None, start_s: float, end_s: float, inside: list[ev.Power]
             ) -> Joules | str:
    """Joules of the window, or why there are none."""
    if curve is None or len(inside) < 2:
        return "fewer than two power readings fell into the run; generate more tokens"
    first, last = curve.span
    covered = min(last, end_s) - max(first, start_s)
    if covered < MIN_COVERED * (end_s - start_s):
        return "the power readings cover less than half of the run"
    return curve.between(start_s, end_s)


def _watts(found: list[Series], start_s: float, end_s: float) -> float | None:
    """Mean power where joules are refused: of the devices that gave watts, None where none did."""
    means = [badge.weighted([e for e in s.readings if start_s <= e.t_s <= end_s], field)
             for s in found for field in ["instant_w" if any(
                 e.instant_w is not None for e in s.readings) else "average_w"]]
    known = [m for m in means if m is not None]
    return sum(known) if known and len(known) == len(found) else None


def absence(events: Iterable[ev.Event]) -> str:
    """Why there is no energy at all."""
    sensors = list({(e.device, e.source): e for e in events
                    if isinstance(e, ev.SensorStatus)}.values())
    reasons = list(dict.fromkeys(f"{s.device}: {s.reason}" for s in sensors
                                 if not s.available and s.reason))
    if reasons:
        return "no power sensor (" + "; ".join(reasons) + ")"
    if any(s.available for s in sensors):
        return "the power sensor gave no reading during the run"
    return "power was not read (no sensor, or telemetry.power was off)"
