"""Where the time per token went, and why one run's is not another's: parts that sum exactly.

The window runs from the first token to the last, so that the parts of one run sum to its decode
time per token (1 / tok/s; for one sequence that is TPOT). Every instant belongs to the innermost
phase that covers it; waiting for weights is taken out of the phase that waited; what no phase
covers is capture (as far as the capture says it cost time) and host.
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from workbench import events as ev
from workbench.analysis.metrics import streams

if TYPE_CHECKING:
    import polars as pl

#: Part -> how it reads in a sentence, in the order in which they are drawn.
PARTS = {"prefill": "reading the prompt", "draft": "drafting", "verify": "verification",
         "decode": "the decode forward", "weights": "waiting for weights",
         "telemetry": "kernel capture", "host": "host work between forwards"}


#: Part -> one word for an axis.
SHORT = {"prefill": "prompt", "draft": "draft", "verify": "verify", "decode": "decode",
         "weights": "waiting", "telemetry": "capture", "host": "host"}


@dataclass(frozen=True)
class Breakdown:
    """Milliseconds per token. ``parts`` sum to ``total_ms``. ``tokens``: after the first ones."""

    total_ms: float
    parts: dict[str, float]
    tokens: int
    forwards: int

    @property
    def tokens_per_forward(self) -> float:
        return self.tokens / self.forwards if self.forwards else 0.0


@dataclass(frozen=True)
class Waterfall:
    """``deltas`` (other − base, ms per token) sum to ``other.total_ms - base.total_ms``."""

    base: Breakdown
    other: Breakdown
    deltas: dict[str, float]

    @property
    def delta_ms(self) -> float:
        return self.other.total_ms - self.base.total_ms

    def frame(self) -> pl.DataFrame:
        """Columns: part, base_ms, other_ms, delta_ms; one row per part."""
        import polars as pl

        return pl.DataFrame(
            [(p, self.base.parts.get(p, 0.0), self.other.parts.get(p, 0.0), d)
             for p, d in self.deltas.items()],
            schema={"part": pl.String, "base_ms": pl.Float64, "other_ms": pl.Float64,
                    "delta_ms": pl.Float64}, orient="row")


def breakdown(events: Iterable[ev.Event]) -> Breakdown | None:
    """None when fewer than two stream events arrived."""
    events = list(events)
    sequences = streams(events)
    every = [t for s in sequences.values() for t in s]
    tokens = len(every) - len(sequences)
    if tokens < 1:
        return None
    start, end = min(t.t_s for t in every), max(t.t_s for t in every)
    if end <= start:
        return None
    phases = [e for e in events if isinstance(e, ev.Phase) and e.phase in PARTS
              and e.end_s > start and e.start_s < end]
    seconds = _own_times(phases, start, end)
    _take_waits(events, phases, seconds, start, end)
    left = (end - start) - sum(seconds.values())
    cost = sum(e.overhead_s for e in events
               if isinstance(e, ev.KernelWindow) and start <= e.end_s <= end)
    seconds["telemetry"] = min(cost, max(0.0, left))
    scale = 1e3 / tokens
    parts = {p: seconds[p] * scale for p in PARTS if p in seconds}
    total = (end - start) * scale
    parts["host"] = total - sum(parts.values())
    forwards = sum(p.phase in ("verify", "decode") for p in phases)
    return Breakdown(total, parts, tokens, forwards)


def _own_times(phases: Sequence[ev.Phase], start: float, end: float) -> dict[str, float]:
    """Seconds per phase inside the window; an instant belongs to the phase that began last."""
    waiting = sorted((max(p.start_s, start), min(p.end_s, end), p.phase) for p in phases)
    marks = sorted({t for a, b, _ in waiting for t in (a, b)})
    seconds: dict[str, float] = {}
    open_now: list[tuple[float, float, str]] = []  # (-start, end, phase): the latest start on top
    taken = 0
    for a, b in pairwise(marks):
        while taken < len(waiting) and waiting[taken][0] <= a:
            began, ends, name = waiting[taken]
            heapq.heappush(open_now, (-began, ends, name))
            taken += 1
        while open_now and open_now[0][1] <= a:
            heapq.heappop(open_now)
        if open_now:
            name = open_now[0][2]
            seconds[name] = seconds.get(name, 0.0) + (b - a)
    return seconds


def _take_waits(events: Sequence[ev.Event], phases: Sequence[ev.Phase], seconds: dict[str, float],
                start: float, end: float) -> None:
    """Move the time a phase stood still for a transfer into ``weights``."""
    ordered = sorted(phases, key=lambda e: e.start_s)
    starts = [p.start_s for p in ordered]
    for e in events:
        if isinstance(e, ev.Transfer) and e.waited_s > 0 and start <= e.end_s <= end:
            at = bisect.bisect_right(starts, e.end_s) - 1
            if at < 0 or ordered[at].end_s < e.start_s:
                continue
            name = ordered[at].phase
            moved = min(e.waited_s, seconds.get(name, 0.0))
            seconds[name] = seconds.get(name, 0.0) - moved
            seconds["weights"] = seconds.get("weights", 0.0) + moved


def waterfall(base: Iterable[ev.Event], other: Iterable[ev.Event]) -> Waterfall | None:
    """The difference between two runs, by part; None when either has no decode time."""
    return between(breakdown(base), breakdown(other))


def combine(parts: Iterable[Breakdown | None]) -> Breakdown | None:
    """Several runs as one: every token counts the same."""
    known = [p for p in parts if p is not None]
    tokens = sum(p.tokens for p in known)
    if not tokens:
        return None
    names = [n for n in PARTS if any(n in p.parts for p in known)]
    return Breakdown(
        sum(p.total_ms * p.tokens for p in known) / tokens,
        {n: sum(p.parts.get(n, 0.0) * p.tokens for p in known) / tokens for n in names},
        tokens, sum(p.forwards for p in known))


def between(a: Breakdown | None, b: Breakdown | None) -> Waterfall | None:
    """The difference of two breakdowns; None when either is missing."""
    if a is None or b is None:
        return None
    names = [p for p in PARTS if p in a.parts or p in b.parts]
    return Waterfall(a, b, {p: b.parts.get(p, 0.0) - a.parts.get(p, 0.0) for p in names})


def waterfall_of(base: Any, other: Any) -> Waterfall | None:
    """Two groups of runs (``.runs``, each with ``.events``), every token counting the same."""
    return between(*(combine(breakdown(r.events) for r in g.runs) for g in (base, other)))


def why(found: Waterfall | None, base: str, other: str) -> str:
    """One plain sentence: how much, because of what, and what speculation gave."""
    if found is None:
        return "One of the two runs has no decode time to compare (fewer than two tokens)."
    a, b = found.base.total_ms, found.other.total_ms
    share = abs(found.delta_ms) / a
    if share < 0.02:
        return (f"{other} and {base} take the same time per token within 2 % "
                f"({b:.3g} and {a:.3g} ms).{_speculation(found)}")
    word = "less" if found.delta_ms < 0 else "more"
    direction = 1 if found.delta_ms > 0 else -1
    causes = sorted(found.deltas.items(), key=lambda d: -direction * d[1])
    main = [f"{PARTS[p]} {_signed(d)}" for p, d in causes[:2] if direction * d > 0.1 * abs(found.delta_ms)]
    against = [f"{PARTS[p]} {_signed(d)}" for p, d in causes[::-1][:1]
               if -direction * d > 0.1 * abs(found.delta_ms)]
    text = (f"{other} takes {b:.3g} ms per token, {100 * share:.0f} % {word} than {base} "
            f"({a:.3g} ms): " + ", ".join(main))
    if against:
        text += "; against that, " + against[0]
    return text + "." + _speculation(found)


def _signed(ms: float) -> str:
    return f"{'+' if ms >= 0 else '−'}{abs(ms):.3g} ms"


def _speculation(found: Waterfall) -> str:
    b = found.other
    if b.parts.get("verify", 0.0) <= 0 or not b.forwards:
        return ""
    cost = b.total_ms * b.tokens_per_forward
    return (f" Each forward of the target yields {b.tokens_per_forward:.2f} tokens and, drafting "
            f"included, takes {cost:.3g} ms.")


def advice(found: Waterfall | None) -> str:
    """One thing to try for the second run, from its own largest part; empty when nothing stands out."""
    if found is None:
        return ""
    b = found.other
    part, ms = max(b.parts.items(), key=lambda item: item[1])
    if ms < 0.3 * b.total_ms:
        return ""
    share = f"{100 * ms / b.total_ms:.0f} % of the time per token is {PARTS[part]}"
    return {
        "draft": f"{share}: draft fewer tokens at a time (decoding.gamma), or use prompt lookup.",
        "verify": f"{share}: raise the acceptance (a better draft) or draft fewer tokens.",
        "decode": f"{share}: weights with fewer bytes, or a drafter, shorten it.",
        "weights": f"{share}: keep more layers resident, or prefetch deeper.",
        "telemetry": f"{share}: choose a lighter telemetry preset.",
        "host": f"{share}: more threads will not help; larger batches or longer drafts share it.",
        "prefill": "",
    }[part]
