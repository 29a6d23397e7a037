"""J per token over power caps or clocks, and the knee: where less power stops paying.

Points are measured in rounds with the order reversed every other round, so that a drift of temperature
or neighbours is not mistaken for the cap. The knee is the least J/token among the points whose speed is
within the slowdown that the user allows; points within each other's error are a tie, and the faster one
is taken.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from workbench.telemetry.power_limits import Range

#: Time for clocks and the averaged power to settle after a change, s.
SETTLE_S = 2.0


@dataclass(frozen=True)
class Plan:
    """What a sweep would do to which device. ``before``: the range read from it."""

    before: Range
    kind: str
    values: tuple[float, ...]
    rounds: int = 3

    @property
    def unit(self) -> str:
        return "W" if self.kind == "power" else "MHz"

    def lines(self) -> list[str]:
        """Exactly what would be set and restored, one call per line."""
        from workbench.telemetry.power_limits import Change, restoring

        calls = [Change(self.before.device, self.kind, v).call() for v in self.values]
        return [*calls, f"restore: {restoring(self.before, self.kind)}"]


@dataclass(frozen=True)
class Point:
    """One setting: means over rounds, ``se`` of J/token over rounds and sensors."""

    value: float
    unit: str
    j_per_token: float | None
    se: float | None
    tok_per_s: float | None
    rounds: int
    badges: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Sweep:
    """Points in rising order; ``knee`` and ``least`` are values of settings, None when unknown."""

    points: tuple[Point, ...]
    knee: float | None
    least: float | None
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def calls_for(kind: str, values: Sequence[float], device: int = 0) -> list[str]:
    """The calls that setting these values would be, for a machine that cannot make them."""
    from workbench.telemetry.power_limits import Change

    return [Change(device, kind, v).call() for v in values]


def plan(before: Range, kind: str = "power", values: Sequence[float] = (), rounds: int = 3) -> Plan:
    """A plan within what the device allows; without ``values``, seven steps over its range.

    Raises WorkbenchError with the range when a value is outside."""
    if kind not in ("power", "clock"):
        raise WorkbenchError(f"{kind!r} cannot be swept; choose power or clock")
    if kind == "power":
        low, high = before.least_w, before.most_w
        if low is None or high is None:
            raise WorkbenchError(f"gpu{before.device} ({before.name}) does not say what power limits it "
                                 "takes, so none is tried")
    else:
        if not before.clocks_mhz:
            raise WorkbenchError(f"gpu{before.device} ({before.name}) lists no clocks to lock")
        low, high = before.clocks_mhz[0], before.clocks_mhz[-1]
    chosen = tuple(sorted(set(values))) or tuple(
        round(low + (high - low) * i / 6) for i in range(7))
    for v in chosen:
        if not low <= v <= high:
            unit = "W" if kind == "power" else "MHz"
            raise WorkbenchError(f"{v:g} {unit} is outside what gpu{before.device} allows: {low:g} to "
                                 f"{high:g} {unit}")
    if kind == "clock":
        chosen = tuple(sorted({min(before.clocks_mhz, key=lambda c: abs(c - v)) for v in chosen}))
    return Plan(before, kind, chosen, rounds)


def run(what: Plan, api: Any, workload: Callable[[], dict[str, Any]], *, consent: bool,
        settle_s: float = SETTLE_S, slowdown: float = 0.05,
        say: Callable[[str], None] = lambda text: None) -> Sweep:
    """Measure every point. ``workload()`` runs the model once and returns the run's metrics.

    Raises WorkbenchError without consent, NotPermitted when the driver refuses; the device is restored
    in every case."""
    from workbench.telemetry.power_limits import held

    found: dict[float, list[dict[str, Any]]] = {v: [] for v in what.values}
    with held(api, what.before, what.kind, consent=consent) as hand:
        for n in range(what.rounds):
            order = what.values if n % 2 else tuple(reversed(what.values))
            for value in order:
                hand.set(value)
                time.sleep(settle_s)
                found[value].append(workload())
                say(f"round {n + 1} of {what.rounds}: {value:g} {what.unit}")
    return judge([_point(v, what.unit, rows) for v, rows in found.items()], slowdown)


def _point(value: float, unit: str, rows: list[dict[str, Any]]) -> Point:
    joules = [m for r in rows if (m := r.get("j_per_token")) is not None]
    known = [m for m in joules if m.value is not None and m.quality == "measured"]
    speeds = [m.value for r in rows if (m := r.get("tok_per_s")) is not None and m.value]
    badges = tuple(dict.fromkeys(m.badges for m in joules if m.badges))
    if not known:
        why = next((m.reason for m in joules if m.reason), "no measured energy")
        return Point(value, unit, None, None, _mean(speeds), len(rows), badges, why)
    values = [m.value for m in known]
    spread = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    sensor = math.hypot(*(m.se or 0.0 for m in known)) / len(known)
    return Point(value, unit, statistics.fmean(values), math.hypot(spread, sensor), _mean(speeds),
                 len(rows), badges)


def _mean(values: list[float]) -> float | None:
    return statistics.fmean(values) if values else None


def judge(points: Sequence[Point], slowdown: float = 0.05) -> Sweep:
    """Least and knee of measured points. Pure."""
    ordered = tuple(sorted(points, key=lambda p: p.value))
    known = [p for p in ordered if p.j_per_token is not None]
    if len(known) < 2:
        why = next((p.reason for p in ordered if p.reason), "fewer than two settings were measured")
        return Sweep(ordered, None, None, f"No knee: {why}.")
    least = _best(known)
    fastest = max((p.tok_per_s or 0.0) for p in known)
    quick = [p for p in known if fastest and (p.tok_per_s or 0.0) >= (1 - slowdown) * fastest]
    knee = _best(quick or known)
    top = known[-1]
    saved = 1 - (knee.j_per_token or 0.0) / (top.j_per_token or 1.0)
    slower = 1 - (knee.tok_per_s or 0.0) / (top.tok_per_s or 1.0) if top.tok_per_s else 0.0
    doubt = math.hypot(knee.se or 0.0, top.se or 0.0) / (top.j_per_token or 1.0)
    sure = "" if saved > 2 * doubt or knee is top else " (within the measurement's doubt)"
    return Sweep(ordered, knee.value, least.value,
                 f"At {knee.value:g} {knee.unit} a token costs {knee.j_per_token:.3g} J, {100 * saved:.1f} % "
                 f"less than at {top.value:g} {top.unit}{sure}, and speed changes by {-100 * slower:+.1f} %; "
                 f"least of all is {least.value:g} {least.unit} at {least.j_per_token:.3g} J.")


def _best(points: Sequence[Point]) -> Point:
    """Least J/token; a tie within one standard error goes to the faster setting."""
    lowest = min(points, key=lambda p: p.j_per_token or math.inf)
    ties = [p for p in points if (p.j_per_token or math.inf)
            <= (lowest.j_per_token or 0.0) + math.hypot(p.se or 0.0, lowest.se or 0.0)]
    return max(ties, key=lambda p: (p.tok_per_s or 0.0, p.value))

