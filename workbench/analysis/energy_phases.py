"""Joules by phase: prompt, decoding, drafting, verification; per token, with an error bar.

Time between two forwards belongs to the one before it, so that the phases add up to the run. A phase
whose stretches are longer than a few sensor periods is read off the cumulated joules. Phases that take
turns faster than the sensor can see are measured together and divided by least squares over the
sensor's intervals (joules of an interval = sum over phases of power x time in it, power per phase being
the unknown); where the intervals do not tell them apart, the division is refused.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from workbench import events as ev
from workbench.analysis import energy as whole
from workbench.analysis.energy_series import Curve, Joules, Series, series_of

READ = "read from the sensor"
#: The phases that a token costs, in the order in which they are shown.
PHASES = ("prefill", "draft", "verify", "decode")
#: A pause longer than this belongs to no phase.
PAUSE_S = 0.1
#: Stretches shorter than this many sensor periods are not read off one by one.
_VISIBLE = 3.0


@dataclass(frozen=True)
class Stretch:
    """A phase without interruption, s on the run's clock."""

    phase: str
    start_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s


@dataclass(frozen=True)
class PhaseEnergy:
    """``joules`` ± ``se`` of one phase; None with a ``reason``. ``tokens``: prompt tokens of a prefill,
    new tokens of what follows. ``net_j``: above idle. ``how``: read off, or divided by least squares."""

    phase: str
    seconds: float
    joules: float | None
    se: float | None
    tokens: int
    net_j: float | None = None
    net_se: float | None = None
    how: str = READ
    reason: str = ""

    @property
    def watts(self) -> float | None:
        return None if self.joules is None or self.seconds <= 0 else self.joules / self.seconds

    @property
    def per_token(self) -> Joules | None:
        """J/token with its error; None where there is no energy or no token."""
        if self.joules is None or not self.tokens:
            return None
        return Joules(self.joules / self.tokens, (self.se or 0.0) / self.tokens)

    @property
    def net_per_token(self) -> Joules | None:
        if self.net_j is None or not self.tokens:
            return None
        return Joules(self.net_j / self.tokens, (self.net_se or 0.0) / self.tokens)


def stretches(events: Iterable[ev.Event]) -> list[Stretch]:
    """The run as uninterrupted stretches of a phase; pauses up to ``PAUSE_S`` go to the one before."""
    spans = sorted((Stretch(e.phase, e.start_s, e.end_s) for e in events
                    if isinstance(e, ev.Phase) and e.phase in PHASES and e.end_s > e.start_s),
                   key=lambda s: s.start_s)
    filled = [Stretch(a.phase, a.start_s, b.start_s if b.start_s - a.end_s <= PAUSE_S else a.end_s)
              for a, b in pairwise(spans)] + spans[-1:]
    merged: list[Stretch] = []
    for s in filled:
        if merged and merged[-1].phase == s.phase and merged[-1].end_s >= s.start_s - 1e-9:
            merged[-1] = Stretch(s.phase, merged[-1].start_s, max(s.end_s, merged[-1].end_s))
        else:
            merged.append(s)
    return merged


def phases(events: Sequence[ev.Event]) -> list[PhaseEnergy]:
    """Energy of every phase that the run had. Empty when nothing was computed; measured sensors only,
    or, where there is none, the estimate."""
    spans = stretches(events)
    if not spans:
        return []
    start, end = spans[0].start_s, spans[-1].end_s
    total = whole.energy(events, start, end)
    names = [p for p in PHASES if any(s.phase == p for s in spans)]
    seconds = {p: sum(s.seconds for s in spans if s.phase == p) for p in names}
    counts = _tokens(events, names)
    if total.joules is None:
        return [PhaseEnergy(p, seconds[p], None, None, counts[p], reason=total.reason) for p in names]
    chosen = [s for s in series_of(events) if s.device in total.devices]
    shares = [_divide(s, spans, names) for s in chosen]
    return [_phase(p, seconds[p], counts[p], [s[p] for s in shares], total.parts) for p in names]


def _phase(name: str, seconds: float, tokens: int, found: list[tuple[Joules | str, str]],
           parts: Sequence[whole.DeviceEnergy]) -> PhaseEnergy:
    """One phase over all devices."""
    total, how = Joules(0.0, 0.0), READ
    for joules, method in found:
        if isinstance(joules, str):
            return PhaseEnergy(name, seconds, None, None, tokens, how=method, reason=joules)
        total, how = total + joules, method if method != READ else how
    idle = [(p.idle_w, p.idle_se_w or 0.0) for p in parts]
    watts = [w for w, _ in idle if w is not None]
    net, se = None, None
    if len(watts) == len(idle):
        net = total.value - sum(watts) * seconds
        se = math.hypot(total.se, *(s * seconds for _, s in idle))
    return PhaseEnergy(name, seconds, total.value, total.se, tokens, net, se, how)


def _tokens(events: Iterable[ev.Event], names: list[str]) -> dict[str, int]:
    """Phase -> prompt tokens, or the new tokens that the phase's group made after the first ones."""
    rows, started, new, sequences = 0, 0, 0, set()
    for e in events:
        if isinstance(e, ev.Phase) and e.phase == "prefill":
            rows += e.rows
        elif isinstance(e, ev.RunStarted):
            started = e.prompt_tokens
        elif isinstance(e, ev.Token):
            new += 1
            sequences.add(e.sequence)
    after = max(0, new - (len(sequences) if "prefill" in names else 0))
    return {p: (rows or started) if p == "prefill" else after for p in names}


def _divide(series: Series, spans: list[Stretch], names: list[str]
            ) -> dict[str, tuple[Joules | str, str]]:
    """Phase -> (joules or why not, how), for one device."""
    curve = series.counter() or series.integral()
    if curve is None:  # the total was given, so this cannot happen; say it rather than guess
        return dict.fromkeys(names, ("the sensor gave fewer than two readings", READ))
    least = _VISIBLE * max(series.period_s or 0.0, 2 * curve.tau_s)
    typical = {p: _median([s.seconds for s in spans if s.phase == p]) for p in names}
    found: dict[str, tuple[Joules | str, str]] = {
        p: (f"its stretches ({typical[p]:.2g} s) are shorter than what the sensor averages over "
            f"({curve.window_s:.2g} s)", READ)
        for p in names if typical[p] < curve.window_s and len(names) > 1}
    quick = [p for p in names if typical[p] < least and len(names) > 1 and p not in found]
    for p in names:
        if p not in quick and p not in found:
            found[p] = (_sum(curve, [s for s in spans if s.phase == p]), READ)
    if len(quick) == 1 and sum(s.phase == quick[0] for s in spans) == 1:
        # One short stretch, as a short prompt is: readable, with an error bar that says how badly.
        found[quick[0]] = (_sum(curve, [s for s in spans if s.phase == quick[0]]), READ)
    elif quick:
        found |= regress(curve, spans, quick)
    return found


def _sum(curve: Curve, spans: Iterable[Stretch]) -> Joules:
    total = Joules(0.0, 0.0)
    for s in spans:
        total += curve.between(s.start_s, s.end_s)
    return total


def regress(curve: Curve, spans: list[Stretch], names: list[str]
            ) -> dict[str, tuple[Joules | str, str]]:
    """Divide what quick phases used together: least squares over the sensor's intervals.

    The standard error is that of the regression, with the residual's variance; a phase whose error
    exceeds half of its value is not told apart, and says so."""
    import numpy as np

    how = "divided by least squares"
    every = sorted({s.phase for s in spans})
    edges = [t for t in curve.t if spans[0].start_s <= t <= spans[-1].end_s]
    clocks = [_clock(spans, p) for p in every]
    rows = np.array([[c(b) - c(a) for c in clocks] for a, b in pairwise(edges)])
    joules = np.array([curve.between(a, b).value for a, b in pairwise(edges)])
    free = len(joules) - len(every)
    refuse = "the sensor is too slow to tell {} from what it takes turns with"
    if free < 3 or np.linalg.matrix_rank(rows, tol=1e-6) < len(every):
        return {p: (refuse.format(p), how) for p in names}
    inverse = np.linalg.inv(rows.T @ rows)
    watts = inverse @ rows.T @ joules
    rest = joules - rows @ watts
    spread = np.sqrt(np.diag(inverse) * float(rest @ rest) / free)
    found: dict[str, tuple[Joules | str, str]] = {}
    for p in names:
        i = every.index(p)
        seconds = sum(s.seconds for s in spans if s.phase == p)
        value, se = float(watts[i]) * seconds, float(spread[i]) * seconds
        found[p] = ((refuse.format(p), how) if value <= 0 or se > 0.5 * value
                    else (Joules(value, se), how))
    return found


def _clock(spans: list[Stretch], phase: str) -> Callable[[float], float]:
    """Time -> seconds that the phase had had until then."""
    mine = [s for s in spans if s.phase == phase]
    starts = [s.start_s for s in mine]
    had = [0.0]
    for s in mine:
        had.append(had[-1] + s.seconds)

    def at(t: float) -> float:
        i = bisect.bisect_right(starts, t) - 1
        return 0.0 if i < 0 else had[i] + min(t - mine[i].start_s, mine[i].seconds)

    return at


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
