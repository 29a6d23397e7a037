"""What a token costs under speculation, and where speculating would pay: from a run's own times.

The window runs from the first token to the last. ``draft`` and ``verify`` are the phases of those names,
``plain`` the steps that were not drafted for, ``overhead`` everything else: choosing tokens, keeping the
cache, text, telemetry.

Break-even: a batch of B sequences whose drafts have n tokens, d of them deep, verifies B (1 + n) rows per
step. With chance a that a token is right when the one before it was,

    tokens per sequence and step = 1 + a + ... + a^d          (Leviathan et al. 2023, arXiv:2211.17192, eq. 1)
    speed-up = tokens * t(B) / (t(B (1 + n)) + B draft + overhead)

t(rows) are lines between measured points of this run and its baseline: plain steps, verifications, and the
prompt's forwards. Between the points, beyond them and for other batches than the run's it is an estimate.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from workbench import events as ev
from workbench.analysis import speculation as of

#: Slowest forwards are what a busy machine adds: the lower quartile of equal forwards is taken.
_QUARTILE = 0.25
ACCEPTANCES = tuple(i / 20 for i in range(21))
BATCHES = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Split:
    """Milliseconds per emitted token. They sum to ``total_ms``."""

    tokens: int
    draft_ms: float
    verify_ms: float
    plain_ms: float
    overhead_ms: float

    @property
    def total_ms(self) -> float:
        return self.draft_ms + self.verify_ms + self.plain_ms + self.overhead_ms

    def parts(self) -> dict[str, float]:
        return {"draft": self.draft_ms, "verify": self.verify_ms, "plain steps": self.plain_ms,
                "overhead": self.overhead_ms}


@dataclass(frozen=True)
class Costs:
    """Seconds of a forward by its rows, measured. ``origin[rows]`` says which forwards those were."""

    seconds: dict[int, float]
    origin: dict[int, str]

    def __call__(self, rows: float) -> float:
        """Lines between the points; the last one goes on, and below the first it is flat."""
        known = sorted(self.seconds)
        if rows <= known[0] or len(known) == 1:
            return self.seconds[known[0]]
        right = min(bisect.bisect_left(known, rows), len(known) - 1)
        a, b = known[right - 1], known[right]
        share = (rows - a) / (b - a)
        return self.seconds[a] + share * (self.seconds[b] - self.seconds[a])

    def measured(self, rows: int) -> bool:
        return rows in self.seconds


@dataclass(frozen=True)
class Method:
    """What one sequence's share of a drafted step is: mean drafted ``nodes``, their mean ``depth``, the
    seconds of drafting (of the lower quartile, as forwards are) and of everything else, and the tokens that
    it gave (``length``)."""

    nodes: float
    depth: float
    draft_s: float
    rest_s: float
    length: float = 1.0


@dataclass(frozen=True)
class BreakEven:
    """``speedup[batch][i]`` at acceptance ``ACCEPTANCES[i]``; ``here``: the run's own acceptance, batch and
    measured speed-up (None without a measured plain step)."""

    batches: tuple[int, ...]
    speedup: tuple[tuple[float, ...], ...]
    acceptance: float
    batch: int
    here: float

    def needed(self, batch: int) -> float | None:
        """The least acceptance at which speculating pays, None where none does."""
        row = self.speedup[self.batches.index(batch)]
        return next((a for a, s in zip(ACCEPTANCES, row, strict=True) if s >= 1.0), None)


def split(events: Iterable[ev.Event]) -> Split | None:
    """None for runs of fewer than two tokens."""
    listed = list(events)
    tokens = [e for e in listed if isinstance(e, ev.Token)]
    first = {t.sequence: t.t_s for t in reversed(tokens)}
    emitted = len(tokens) - len(first)
    if emitted < 1:
        return None
    start, end = max(first.values()), max(t.t_s for t in tokens)
    sums = {"draft": 0.0, "verify": 0.0, "decode": 0.0}
    for phase in listed:
        if isinstance(phase, ev.Phase) and phase.phase in sums:
            sums[phase.phase] += max(0.0, min(phase.end_s, end) - max(phase.start_s, start))
    k = 1e3 / emitted
    rest = max(0.0, (end - start) - sum(sums.values()))
    return Split(emitted, sums["draft"] * k, sums["verify"] * k, sums["decode"] * k, rest * k)


def costs(*runs: Iterable[ev.Event]) -> Costs:
    """Points from all forwards of these runs, grouped by their rows. Empty without forwards."""
    found: dict[int, list[float]] = {}
    origin: dict[int, set[str]] = {}
    words = {"decode": "plain steps", "verify": "verifications", "prefill": "the prompt"}
    for events in runs:
        for e in events:
            if isinstance(e, ev.Phase) and e.phase in words and e.rows > 0 and e.end_s > e.start_s:
                found.setdefault(e.rows, []).append(e.end_s - e.start_s)
                origin.setdefault(e.rows, set()).add(words[e.phase])
    seconds = {rows: _low(times) for rows, times in found.items()}
    known = sorted(seconds)
    for a, b in zip(reversed(known[:-1]), reversed(known[1:]), strict=True):
        seconds[a] = min(seconds[a], seconds[b])  # fewer rows never cost more than more rows did
    return Costs(seconds, {rows: " and ".join(sorted(who)) for rows, who in origin.items()})


def _low(times: Sequence[float]) -> float:
    ordered = sorted(times)
    return ordered[int(_QUARTILE * (len(ordered) - 1))]


def method(events: Iterable[ev.Event]) -> Method | None:
    """Means over a run's drafted steps; None where there are none. Sequences of a batch that had no draft in
    such a step count with none: they had their row in it, too."""
    listed = list(events)
    drafts = of.drafts(listed)
    parts = split(listed)
    if not drafts or parts is None:
        return None
    drafted = {d.step for d in drafts}
    there = {(e.step, e.sequence) for e in listed if isinstance(e, ev.Token) and e.step in drafted}
    shares = max(1, len(there | {(d.step, d.sequence) for d in drafts}))
    times = [p.end_s - p.start_s for p in listed if isinstance(p, ev.Phase) and p.phase == "draft"]
    steps = sum(isinstance(p, ev.Phase) and p.phase in ("verify", "decode") for p in listed)
    return Method(
        nodes=sum(d.drafted for d in drafts) / shares,
        depth=sum(max(of.depths(of.parents(d)), default=0) for d in drafts) / shares,
        draft_s=_low(times) * len(drafted) / shares if times else 0.0,
        rest_s=parts.overhead_ms * 1e-3 * parts.tokens / max(1, steps),
        length=1 + sum(d.accepted for d in drafts) / shares)


def chance(events: Iterable[ev.Event]) -> float | None:
    """The chance per depth that explains the run's tokens per drafted step: the a of the formula."""
    how = method(list(events))
    if how is None:
        return None
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if gained(middle, how.depth) < how.length else (low, middle)
    return (low + high) / 2


def gained(a: float, depth: float) -> float:
    """1 + a + ... + a^depth, with the last term in part where the depth is no whole number."""
    whole = int(depth)
    return sum(a**d for d in range(whole + 1)) + (depth - whole) * a**(whole + 1)


def speedup(a: float, batch: int, cost: Costs, how: Method) -> float:
    """Tokens per second against plain decoding of the same batch."""
    plain = cost(batch) + how.rest_s
    drafted = cost(batch * (1 + how.nodes)) + batch * how.draft_s + how.rest_s
    return gained(a, how.depth) * plain / drafted


def break_even(events: Iterable[ev.Event], *others: Iterable[ev.Event], batch: int = 1) -> BreakEven | None:
    """The surface from this run's costs and those of ``others`` (its baseline), or None where no plain
    step was timed or nothing was drafted."""
    listed = list(events)
    cost, how, a = costs(listed, *others), method(listed), chance(listed)
    if how is None or a is None or not cost.measured(batch):
        return None
    batches = tuple(sorted({*BATCHES, batch}))
    table = tuple(tuple(speedup(x, b, cost, how) for x in ACCEPTANCES) for b in batches)
    return BreakEven(batches, table, a, batch, speedup(a, batch, cost, how))
