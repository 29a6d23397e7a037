"""What the host did between forwards and inside them, from looks at the loop's stack."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from workbench import events as ev

#: Fewer looks than this between forwards say nothing about how that time divides.
_FEWEST = 8


@dataclass(frozen=True)
class Place:
    """One function the loop was seen in. ``share``: of all looks of the run."""

    what: str
    where: str
    share: float
    samples: int
    between: bool


def places(events: Iterable[ev.Event]) -> list[Place]:
    """Functions by how often the loop was seen in them; the capture's own are left out."""
    found = [Place(e.what, e.where, e.samples / e.of, e.samples, e.between) for e in events
             if isinstance(e, ev.HostStack) and e.of and e.what != "telemetry"]
    return sorted(found, key=lambda p: -p.samples)


def between_forwards(events: Iterable[ev.Event], seconds: float) -> dict[str, float]:
    """``seconds`` that no phase covers, divided into ``detokenizer`` and ``host``.

    By the stage clock where the run has one, else by the looks; without either all is ``host``."""
    events = list(events)
    text = _clocked(events)
    if text is None:
        seen = [p for p in places(events) if p.between and p.what in ("host", "detokenizer")]
        n = sum(p.samples for p in seen)
        text = (sum(p.samples for p in seen if p.what == "detokenizer") / n * seconds
                if n >= _FEWEST else 0.0)
    text = min(text, seconds)
    return {"host": seconds - text, **({"detokenizer": text} if text else {})}


def _clocked(events: list[ev.Event]) -> float | None:
    """Seconds of text work after the first token, when the engine's stages were recorded."""
    stages = [e for e in events if isinstance(e, ev.Overhead) and e.what == "detokenize"]
    tokens = sum(isinstance(e, ev.Token) for e in events)
    if not stages or not tokens:
        return None
    return sum(e.seconds for e in stages) * (tokens - 1) / tokens


def stalled_share(events: Iterable[ev.Event]) -> float:
    """Share of the forwards' time in functions that compute nothing of them, by the looks; 0 when there
    were too few."""
    inside = [p for p in places(events) if not p.between]
    held = sum(p.samples for p in inside if p.what == "stalled")
    return held / sum(p.samples for p in inside) if held >= _FEWEST else 0.0
