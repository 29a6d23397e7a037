"""Was this run disturbed by a neighbour, by how much, and how do we know?

After CloudFormer (arXiv:2509.03394), whose target is the ideal over the actual performance. Here the
estimate is a formula, not a trained model: the time our threads stood ready without a core, and stolen
time, stretch a run by a known factor. What neighbours take of caches and memory bandwidth cannot be
read without privileges; it shows as spread of the step times while others were at work, which is said
as a suspicion and never counted into the factor.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from workbench import events as ev
from workbench.analysis.metrics import percentile

#: A run whose estimated speed is under this share of the undisturbed one carries the badge.
LEAST = 0.95
#: Others' share of the CPU above which a spread of step times is suspicious.
_BUSY = 0.15


@dataclass(frozen=True)
class Disturbance:
    """``slowdown``: estimated factor (1: undisturbed), None when it cannot be known, with ``reason``.

    ``evidence``: sentences. ``badge``: a few words, empty when the run was undisturbed. ``suspicion``:
    what may have happened beside the factor."""

    slowdown: float | None
    badge: str
    evidence: tuple[str, ...]
    suspicion: str = ""
    reason: str = ""
    seconds: float = 0.0
    disturbed_s: float = 0.0

    @property
    def short(self) -> str:
        """The badge in two words, for beside a number."""
        return f"disturbed, ×{self.slowdown:.2g} estimated" if self.badge and self.slowdown else ""


def disturbance(events: Iterable[ev.Event]) -> Disturbance:
    """Over the whole run: waiting and running summed over its windows, not a mean of ratios."""
    events = list(events)
    seen = [e for e in events if isinstance(e, ev.Interference)]
    if not seen:
        return Disturbance(None, "", (), reason="neighbours were not watched in this run (this needs "
                                                "Linux, and a version that records them)")
    known = [e for e in seen if e.slowdown is not None]
    whole = sum(e.end_s - e.start_s for e in seen)
    if not known:
        return Disturbance(None, "", tuple(_evidence(seen)), _suspicion(events, seen),
                           "the run was too short, or this system does not show what threads wait",
                           whole)
    seconds = sum(e.end_s - e.start_s for e in known)
    # Time that the work would have taken alone: each window's time over its own factor.
    alone = sum((e.end_s - e.start_s) / (e.slowdown or 1.0) for e in known)
    slowdown = seconds / alone if alone > 0 else 1.0
    badge = f"disturbed by a neighbour, about {slowdown:.2g} times as slow (estimated)" if (
        1.0 / slowdown < LEAST) else ""
    bad = sum(e.end_s - e.start_s for e in known if 1.0 / (e.slowdown or 1.0) < LEAST)
    return Disturbance(slowdown, badge, tuple(_evidence(seen)), _suspicion(events, seen), "", whole, bad)


def _evidence(seen: list[ev.Interference]) -> list[str]:
    said = []
    waited = mean(seen, "waited")
    if waited is not None:
        said.append(f"its threads stood ready without a core for {100 * waited:.3g} % of the time")
    others = mean(seen, "others")
    if others is not None:
        said.append(f"other processes used {100 * others:.0f} % of this machine's CPU")
    switches = mean(seen, "involuntary_per_s")
    if switches is not None:
        said.append(f"its threads were put aside {switches:.0f} times per second (threads that yield to "
                    "each other count too)")
    pressure = mean(seen, "pressure")
    if pressure is not None:
        said.append(f"somebody here waited for a core {100 * pressure:.0f} % of the time (PSI)")
    steal = mean(seen, "steal")
    if steal is not None and steal > 0.001:
        said.append(f"the hypervisor gave {100 * steal:.2g} % of the CPU to other machines")
    return said


def mean(seen: Iterable[ev.Interference], name: str) -> float | None:
    """Weighted by the windows' durations; None when no window has it."""
    rows = [(getattr(e, name), e.end_s - e.start_s) for e in seen if getattr(e, name) is not None]
    weight = sum(w for _, w in rows)
    return sum(v * w for v, w in rows) / weight if weight > 0 else None


def step_spread(events: Iterable[ev.Event]) -> tuple[float, int] | None:
    """(inter-quartile range over median of the step times, steps); None under eight steps."""
    phases = [e for e in events if isinstance(e, ev.Phase) and e.phase in ("decode", "forward", "verify")]
    kinds = {p.phase for p in phases}
    main = max(kinds, key=lambda k: sum(p.phase == k for p in phases), default="")
    seconds = [p.end_s - p.start_s for p in phases if p.phase == main]
    if len(seconds) < 8:
        return None
    middle = percentile(seconds, 0.5)
    return (percentile(seconds, 0.75) - percentile(seconds, 0.25)) / middle if middle else 0.0, len(seconds)


def _suspicion(events: list[ev.Event], seen: list[ev.Interference]) -> str:
    spread, others = step_spread(events), mean(seen, "others")
    if spread is None or others is None or others < _BUSY or spread[0] < 0.15:
        return ""
    return (f"half of its {spread[1]} steps spread over {100 * spread[0]:.0f} % of their median while "
            "others were at work: caches and memory bandwidth may have been shared too, which no counter "
            "shows here")
