"""What a reader must know before believing an energy figure, as short badges."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from workbench import events as ev

#: Shares below which nothing is said.
_THROTTLED, _OTHERS = 0.02, 0.10
#: Relative difference of counter and integral above which both are shown.
DISAGREE = 0.05
TOO_SHORT = "too short for the sensor"
BETWEEN = " · "


def weighted(readings: Sequence[ev.Power], value: str) -> float | None:
    """Time-weighted mean of a field over the readings that have it; None where none has."""
    have = [(e.t_s, float(v)) for e in readings if (v := getattr(e, value)) is not None]
    if not have:
        return None
    if len(have) == 1 or have[-1][0] <= have[0][0]:
        return sum(v for _, v in have) / len(have)
    area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(have))
    return area / (have[-1][0] - have[0][0])


def throttled(readings: Sequence[ev.Power]) -> str:
    """``throttled 40 % of the time (power cap)``, or empty."""
    slow = [e for e in readings if e.throttled]
    if not readings or len(slow) <= _THROTTLED * len(readings):
        return ""
    causes = sorted({c for e in slow for c in e.throttled.split(", ")})
    return f"throttled {100 * len(slow) / len(readings):.0f} % of the time ({', '.join(causes)})"


def disturbed(readings: Sequence[ev.Power]) -> str:
    """``others did 35 % of the work``: the joules are of the whole device, not of this run alone."""
    share = weighted(readings, "others")
    if share is None or share < _OTHERS:
        return ""
    return f"contention: others did {100 * share:.0f} % of the device's work"


def disagreement(counter_j: float, integral_j: float) -> str:
    """Counter and integral of power differ, or empty."""
    if counter_j <= 0 or abs(integral_j / counter_j - 1) <= DISAGREE:
        return ""
    return f"integral of power differs from the counter by {100 * (integral_j / counter_j - 1):+.0f} %"
