"""The first cause, in plain words, the one thing to try, and what it should give.

With a baseline the cause is what grew; without one it is the time that could be avoided: above the
floor, waiting, between kernels, for tokens that were thrown away. Causes that stretch everything
alike (fewer threads, a neighbour, less clock) are looked for first in their own evidence, because
every bar of a waterfall then grows and none of them is the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from workbench import events as ev
from workbench.analysis.evidence import Evidence, gather
from workbench.analysis.hosttime import Place
from workbench.analysis.waterfall import PARTS, Breakdown, Waterfall, between, breakdown

#: Share of the difference (or of the time per token) that a cause must have to be named.
NOTABLE = 0.05
#: A stretch by neighbours that is no matter of doubt.
_CLEAR = 0.3
#: Parts that threads share.
_COMPUTED = ("weights", "attention", "dequant", "small", "decode", "verify")


@dataclass(frozen=True)
class Cause:
    """``ms``: per token, what it costs more than the baseline, or more than it must.

    ``key``: a part of the waterfall, or ``threads`` or ``neighbour``. ``say``: one sentence."""

    key: str
    ms: float
    say: str


@dataclass(frozen=True)
class Advice:
    """One control: ``changes`` (paths of settings -> values), and what ``total_ms`` it should give.

    ``expects_ms`` None: nobody can say; ``basis``: how the figure was made, always estimated."""

    label: str
    changes: dict[str, Any]
    expects_ms: float | None
    basis: str


@dataclass(frozen=True)
class Explanation:
    """``causes`` first cause first; empty when the two take the same time."""

    causes: tuple[Cause, ...]
    other: Breakdown
    fall: Waterfall | None = None
    base: Breakdown | None = None
    evidence: Evidence = field(default_factory=Evidence)

    @property
    def first(self) -> Cause | None:
        return self.causes[0] if self.causes else None


def explain(run: Iterable[ev.Event], baseline: Iterable[ev.Event] | None = None) -> Explanation | None:
    """None when the run has fewer than two tokens; without a baseline, what could be avoided."""
    events = list(run)
    other = breakdown(events)
    if other is None:
        return None
    mine = gather(events)
    if baseline is None:
        return Explanation(tuple(_avoidable(other, mine)), other, evidence=mine)
    before = list(baseline)
    fall = between(breakdown(before), other)
    if fall is None:
        return Explanation(tuple(_avoidable(other, mine)), other, evidence=mine)
    theirs = gather(before)
    return Explanation(tuple(_grown(fall, mine, theirs)), fall.other, fall, fall.base, mine)


# -- against a baseline ------------------------------------------------------------------------


def _grown(fall: Waterfall, mine: Evidence, theirs: Evidence) -> list[Cause]:
    """Bars by how much they explain of the difference; what stretches all of them comes first.

    When neighbours took more (or less) in one run than in the other, every bar of the baseline is
    expected to stretch by that factor; what goes beyond it is the bar's own."""
    if abs(fall.delta_ms) < 0.02 * fall.base.total_ms:
        return []
    direction = 1.0 if fall.delta_ms >= 0 else -1.0
    stretch = _stretch(mine, theirs)
    found = []
    for part, d in fall.deltas.items():
        own = d - stretch * fall.base.parts.get(part, 0.0)
        if min(direction * own, direction * d) > NOTABLE * abs(fall.delta_ms):
            found.append(Cause(part, own, _say(part, d, fall.other, mine)))
    found.sort(key=lambda c: -direction * c.ms)
    threads = _threads(fall, mine, theirs, direction)
    if threads is not None and abs(threads.ms) > 0.5 * abs(fall.delta_ms):
        return [threads, *found]  # a setting that differs needs no estimate
    whole = _neighbour(fall, mine, theirs, stretch, direction)
    if whole is not None and (not found or abs(whole.ms) > 0.8 * abs(found[0].ms)):
        found.insert(0, whole)
    return found


def _stretch(mine: Evidence, theirs: Evidence) -> float:
    """By what share neighbours alone would have made the baseline's work longer in this run."""
    ratio = (1 + mine.disturbed) / (1 + theirs.disturbed)
    return 0.0 if abs(ratio - 1) < 0.1 else min(3.0, max(-0.75, ratio - 1))


def _threads(fall: Waterfall, mine: Evidence, theirs: Evidence, direction: float) -> Cause | None:
    """Another number of threads, where the computed parts went the way of the difference."""
    computed = sum(fall.deltas.get(p, 0.0) for p in _COMPUTED)
    if not mine.threads or not theirs.threads or mine.threads == theirs.threads:
        return None
    if (mine.threads < theirs.threads) != (direction > 0) or computed * direction <= 0:
        return None
    return Cause("threads", computed, (
        f"{mine.threads} CPU threads computed instead of {theirs.threads}, which makes "
        f"{abs(computed):.3g} ms per token {'more' if computed > 0 else 'less'}"))


def _neighbour(fall: Waterfall, mine: Evidence, theirs: Evidence, stretch: float, direction: float
               ) -> Cause | None:
    lost = stretch * fall.base.total_ms
    if stretch > _CLEAR and _alike(fall, 0.5 * stretch) > 0.7:
        # All of it grew together while others took the cores: more than their waiting explains.
        lost = max(lost, sum(d for d in fall.deltas.values() if d > 0))
    if lost * direction <= NOTABLE * abs(fall.delta_ms):
        return None
    who, where = (mine, "in this run") if direction > 0 else (theirs, "in the baseline")
    return Cause("neighbour", lost, (
        f"other processes took {who.neighbour_words} {where}, about {abs(lost):.3g} ms per token "
        "(estimated)"))


def _alike(fall: Waterfall, least: float) -> float:
    """Share of the baseline's time in parts that grew by at least this share of themselves."""
    grown = sum(ms for p, ms in fall.base.parts.items() if fall.deltas.get(p, 0.0) >= least * ms)
    return grown / fall.base.total_ms


def _lost(b: Breakdown, seen: Evidence) -> float:
    """Milliseconds per token that the threads stood ready without a core, estimated."""
    return b.total_ms * seen.disturbed / (1 + seen.disturbed)


# -- alone -------------------------------------------------------------------------------------


def _avoidable(b: Breakdown, mine: Evidence) -> list[Cause]:
    """Parts by the time that they need not take."""
    found = []
    for part, ms in b.parts.items():
        spare = ms - mine.floors.get(part, 0.0) * _per_token(b) * 1e3
        spare = {"weights": spare if part in mine.floors else 0.5 * ms,
                 "attention": spare if part in mine.floors else 0.5 * ms,
                 "decode": 0.25 * ms, "verify": 0.25 * ms, "draft": 0.5 * ms,
                 "small": 0.5 * ms, "prefill": 0.0, "accepted": 0.0}.get(part, ms)
        if spare > NOTABLE * b.total_ms:
            found.append(Cause(part, spare, _say(part, spare, b, mine, alone=True)))
    if mine.disturbed > 0.25:
        lost = _lost(b, mine)
        found.append(Cause("neighbour", lost, (
            f"other processes took {mine.neighbour_words}, which cost about {lost:.3g} ms per token "
            "(estimated)")))
    if mine.threads and mine.cores and mine.threads < mine.cores and mine.computing:
        lost = sum(b.parts.get(p, 0.0) for p in _COMPUTED) * (1 - mine.threads / mine.cores)
        found.append(Cause("threads", lost, (
            f"{mine.threads} of {mine.cores} cores computed; with all of them the computed parts "
            f"could take up to {lost:.3g} ms per token less")))
    return sorted(found, key=lambda c: -c.ms)


def _per_token(b: Breakdown) -> float:
    return b.forwards / b.tokens if b.tokens else 0.0


# -- words -------------------------------------------------------------------------------------


def _say(part: str, ms: float, b: Breakdown, mine: Evidence, alone: bool = False) -> str:
    name = PARTS[part]
    amount = (f"up to {ms:.3g} of its {b.parts.get(part, 0.0):.3g} ms per token are avoidable"
              if alone else f"{'+' if ms >= 0 else '−'}{abs(ms):.3g} ms per token")
    return f"{name}: {amount}{_detail(part, b, mine)}"


def _detail(part: str, b: Breakdown, mine: Evidence) -> str:
    if part in ("host", "sampling", "detokenizer", "stalled", "launch"):
        seen = _seen(part, mine.places)
        if seen is not None and (part != "launch" or seen.share > 0.2):
            return f" (most often seen in {seen.where})"
    if part == "rejected" and b.acceptance is not None:
        return f" ({100 * b.acceptance:.0f} % of the drafted tokens were accepted)"
    if part == "copies" and mine.copied_bytes_per_s:
        return f" (weights came at {mine.copied_bytes_per_s / 1e9:.3g} GB/s)"
    return ""


def _seen(part: str, places: Sequence[Place]) -> Place | None:
    between_ = {"host", "detokenizer", "sampling"}
    wanted = {"sampling": ("sampling",), "detokenizer": ("detokenizer",), "host": ("host",),
              "stalled": ("stalled", "forward"), "launch": ("forward",)}[part]
    return next((p for p in places if p.what in wanted and p.between == (part in between_)),
                next((p for p in places if p.between), None) if part in between_ else None)
