"""Where the time per token went, and why one run's is not another's: parts that sum exactly.

The window runs from the first token to the last, so that the parts of one run sum to its decode
time per token (1 / tok/s; for one sequence that is TPOT). Every instant belongs to the innermost
phase that covers it. A phase divides into its forward, which kernel windows divide further
(:mod:`workbench.analysis.composition`), waiting for weights, and choosing the token; what no phase
covers is capture (as far as the capture says it cost time), text, and host.

The difference of two runs has one bar more: a forward may yield more or fewer tokens (drafts that
were accepted or rejected, a larger batch), which changes what every part of it costs per token.
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from workbench import events as ev
from workbench.analysis.composition import FORWARD_PARTS, Composition, compositions, forward_times
from workbench.analysis.hosttime import between_forwards, stalled_share
from workbench.analysis.metrics import streams

if TYPE_CHECKING:
    import polars as pl

#: Part -> how it reads in a sentence, in the order in which they are drawn.
PARTS = {"prefill": "reading the prompt", "weights": "reading weights",
         "attention": "attention", "dequant": "dequantization on the fly",
         "small": "norms, activations and other small operators",
         "launch": "launching operators", "stalled": "host work inside the forward",
         "verify": "verification", "decode": "the decode forward",
         "sampling": "choosing the token", "draft": "drafting",
         "rejected": "drafted tokens that were rejected", "accepted": "tokens per forward",
         "copies": "waiting for weights to arrive", "detokenizer": "turning tokens into text",
         "telemetry": "kernel capture", "host": "host work between forwards"}


#: Part -> one word for an axis.
SHORT = {"prefill": "prompt", "weights": "weights", "attention": "attention", "dequant": "dequant",
         "small": "small ops", "launch": "launch", "stalled": "in forward", "verify": "verify",
         "decode": "decode", "sampling": "sampling", "draft": "draft", "rejected": "rejected",
         "accepted": "per forward", "copies": "copies", "detokenizer": "text",
         "telemetry": "capture", "host": "host"}

#: What every forward costs again, so that more tokens per forward make it cheaper per token.
PER_FORWARD = (*FORWARD_PARTS, "verify", "decode", "sampling", "copies", "host")


@dataclass(frozen=True)
class Breakdown:
    """Milliseconds per token. ``parts`` sum to ``total_ms``. ``tokens``: after the first ones.

    ``whole``: the forwards' time is divided by kernel windows; else it stands as ``decode verify``.
    ``acceptance``: accepted of drafted tokens, None without drafts. ``weights``: what ran."""

    total_ms: float
    parts: dict[str, float]
    tokens: int
    forwards: int
    whole: bool = False
    acceptance: float | None = None
    weights: str = ""
    composed: dict[str, Composition] = field(default_factory=dict, compare=False)

    @property
    def tokens_per_forward(self) -> float:
        return self.tokens / self.forwards if self.forwards else 0.0

    def coarse(self) -> Breakdown:
        """With the forwards' time as one part."""
        forward = (*FORWARD_PARTS, "verify", "decode")
        kept = {p: v for p, v in self.parts.items() if p not in forward}
        kept["decode"] = sum(self.parts.get(p, 0.0) for p in forward)
        return replace(self, parts={p: kept[p] for p in PARTS if p in kept}, whole=False)


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
        """Columns: part, base_ms, other_ms, delta_ms; one row per part.

        ``delta_ms`` sum to the difference; with another number of tokens per forward a part's delta
        is not ``other_ms - base_ms``, because that effect has a row of its own."""
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
    phases = [e for e in events if isinstance(e, ev.Phase) and e.phase in _PHASES
              and e.end_s > start and e.start_s < end]
    seconds = _own_times(phases, start, end)
    _take_waits(events, phases, seconds, start, end)
    seconds["telemetry"] = _take_captures(events, phases, seconds, start, end)
    seconds["host"] = max(0.0, (end - start) - sum(seconds.values()))
    composed = compositions(events)
    whole = _divide(events, phases, seconds, composed)
    seconds |= between_forwards(events, seconds.pop("host"))
    drafted, accepted = _drafts(events)
    if drafted and "draft" in seconds:
        seconds["rejected"] = seconds["draft"] * (1 - accepted / drafted)
        seconds["draft"] -= seconds["rejected"]
    scale = 1e3 / tokens
    parts = {p: seconds[p] * scale for p in PARTS if p in seconds}
    forwards = sum(p.phase in ("verify", "decode") for p in phases)
    return Breakdown(
        (end - start) * scale, parts, tokens, forwards, whole,
        accepted / drafted if drafted else None, _weights(events), composed)


_PHASES = ("prefill", "draft", "verify", "decode")


def _drafts(events: Sequence[ev.Event]) -> tuple[int, int]:
    found = [e for e in events if isinstance(e, ev.Draft)]
    return sum(e.drafted for e in found), sum(e.accepted for e in found)


def _weights(events: Sequence[ev.Event]) -> str:
    """What the weights were, as read back; empty when the run does not say."""
    return next((e.effective for e in reversed(events)
                 if isinstance(e, ev.Effective) and e.path == "weights"), "")


def _divide(events: Sequence[ev.Event], phases: Sequence[ev.Phase], seconds: dict[str, float],
            composed: dict[str, Composition]) -> bool:
    """Replace the time of target forwards by its parts; False where no window says them."""
    times = forward_times(events)
    target = [p for p in ("verify", "decode") if seconds.get(p)]
    found = {p: composed.get(p) or next((composed[q] for q in target if q in composed), None)
             for p in target}
    for phase in target:
        spent, n = times.get(phase, (0.0, 0))
        count = sum(p.phase == phase for p in phases)
        made = found[phase]
        if n and not (made is not None and made.on_device):
            # On a GPU the forward returns before it is computed; the wait for it is not choosing.
            inside = min(seconds[phase], spent / n * count)
            seconds["sampling"] = seconds.get("sampling", 0.0) + seconds[phase] - inside
            seconds[phase] = inside
    if not target or any(found[p] is None for p in target):
        return False
    stalled = stalled_share(events)
    for phase in target:
        made, whole = found[phase], seconds.pop(phase)
        assert made is not None
        for part, value in made.parts.items():
            seconds[part] = seconds.get(part, 0.0) + whole * value / made.forward_s
        # A gap that the looks find in a function of somebody else's is no launching.
        held = min(seconds.get("launch", 0.0), stalled * whole)
        if held > seconds.get("stalled", 0.0):
            seconds["launch"] -= held - seconds.get("stalled", 0.0)
            seconds["stalled"] = held
    return True


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
    """Move the time a phase stood still for a transfer into ``copies``."""
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
            seconds["copies"] = seconds.get("copies", 0.0) + moved


def _take_captures(events: Sequence[ev.Event], phases: Sequence[ev.Phase], seconds: dict[str, float],
                   start: float, end: float) -> float:
    """Seconds that kernel windows cost, taken from the phase each was in, else from between phases."""
    ordered = sorted(phases, key=lambda e: e.start_s)
    starts = [p.start_s for p in ordered]
    left = max(0.0, (end - start) - sum(seconds.values()))
    taken = 0.0
    for e in events:
        if not isinstance(e, ev.KernelWindow) or not start <= e.end_s <= end:
            continue
        at = bisect.bisect_right(starts, e.start_s) - 1
        inside = at >= 0 and e.start_s < ordered[at].end_s and e.wall_s is not None
        name = ordered[at].phase if inside else ""
        cost = min(e.overhead_s, seconds.get(name, 0.0) if inside else left)
        if inside:
            seconds[name] -= cost
        else:
            left -= cost
        taken += cost
    return taken


def waterfall(base: Iterable[ev.Event], other: Iterable[ev.Event]) -> Waterfall | None:
    """The difference between two runs, by part; None when either has no decode time."""
    return between(breakdown(base), breakdown(other))


def combine(parts: Iterable[Breakdown | None]) -> Breakdown | None:
    """Several runs as one: every token counts the same."""
    known = [p for p in parts if p is not None]
    tokens = sum(p.tokens for p in known)
    if not tokens:
        return None
    if not all(p.whole for p in known):
        known = [p.coarse() for p in known]
    names = [n for n in PARTS if any(n in p.parts for p in known)]
    rates = [p.acceptance for p in known if p.acceptance is not None]
    return Breakdown(
        sum(p.total_ms * p.tokens for p in known) / tokens,
        {n: sum(p.parts.get(n, 0.0) * p.tokens for p in known) / tokens for n in names},
        tokens, sum(p.forwards for p in known), all(p.whole for p in known),
        sum(rates) / len(rates) if rates else None, known[0].weights, known[0].composed)


def between(a: Breakdown | None, b: Breakdown | None) -> Waterfall | None:
    """The difference of two breakdowns; None when either is missing."""
    if a is None or b is None:
        return None
    if not (a.whole and b.whole):
        a, b = a.coarse(), b.coarse()
    deltas = {p: b.parts.get(p, 0.0) - a.parts.get(p, 0.0) for p in PARTS
              if p in a.parts or p in b.parts}
    _tokens_per_forward(a, b, deltas)
    _verified(a, b, deltas)
    return Waterfall(a, b, {p: deltas[p] for p in PARTS if p in deltas})


def _tokens_per_forward(a: Breakdown, b: Breakdown, deltas: dict[str, float]) -> None:
    """Take the effect of more or fewer tokens per forward out of every part.

    A part costs k·c per token (k forwards per token, c per forward); its difference is exactly
    mean(k)·Δc + mean(c)·Δk, and the second terms of all parts are one bar."""
    if not a.forwards or not b.forwards:
        return
    ka, kb = a.forwards / a.tokens, b.forwards / b.tokens
    if abs(ka - kb) < 0.01 * max(ka, kb):
        return
    moved = 0.0
    for part in PER_FORWARD:
        if part in deltas:
            ca, cb = a.parts.get(part, 0.0) / ka, b.parts.get(part, 0.0) / kb
            deltas[part] = (ka + kb) / 2 * (cb - ca)
            moved += (ca + cb) / 2 * (kb - ka)
    worse = moved > 0 and a.acceptance is not None
    name = "rejected" if worse else "accepted"
    deltas[name] = deltas.get(name, 0.0) + moved


def _verified(a: Breakdown, b: Breakdown, deltas: dict[str, float]) -> None:
    """Against plain decoding, what a verification costs more than a plain forward is the draft's.

    Its accepted rows belong to drafting, its rejected ones to rejected work. Only where the same
    weights ran in both; otherwise the two cannot be told apart."""
    if (a.acceptance is None) == (b.acceptance is None) or a.weights != b.weights:
        return
    rate = b.acceptance if b.acceptance is not None else a.acceptance
    assert rate is not None
    for part in (*FORWARD_PARTS, "decode", "verify", "sampling", "host"):
        extra = deltas.get(part, 0.0)
        if (extra > 0) == (b.acceptance is not None) and extra and part != "dequant":
            deltas[part] = 0.0
            deltas["draft"] = deltas.get("draft", 0.0) + rate * extra
            deltas["rejected"] = deltas.get("rejected", 0.0) + (1 - rate) * extra


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
    if b.acceptance is None or not b.forwards:
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
    if ms < 0.3 * b.total_ms or part not in _TRY:
        return ""
    return f"{100 * ms / b.total_ms:.0f} % of the time per token is {PARTS[part]}: {_TRY[part]}."


#: Part -> what makes it shorter, in a few words.
_TRY = {
    "draft": "draft fewer tokens at a time (decoding.gamma), or use prompt lookup",
    "rejected": "raise the acceptance (a better draft), draft fewer tokens, or decode plainly",
    "verify": "raise the acceptance (a better draft) or draft fewer tokens",
    "decode": "weights with fewer bytes, or a drafter, shorten it",
    "weights": "weights with fewer bytes, or a drafter, shorten it",
    "attention": "a smaller KV cache (kv=int8) or a shorter context shortens it",
    "dequant": "weights that are multiplied as they are stored need none",
    "small": "fused kernels, or more tokens per forward, share it",
    "launch": "more tokens per forward (a drafter, a batch) share it",
    "stalled": "see which function it is in the table of host work",
    "sampling": "greedy choice (sampling.temperature=0) is the cheapest",
    "copies": "keep more layers resident, or prefetch deeper",
    "detokenizer": "it is text work on the host: larger drafts arrive in one piece",
    "telemetry": "choose a lighter telemetry preset",
    "host": "more threads will not help; larger batches or longer drafts share it",
}
