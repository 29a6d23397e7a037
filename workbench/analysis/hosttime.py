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
    """``seconds`` that no phase covers, divided into ``detokenizer`` and ``host`` by the looks.

    Without enough looks all of it is ``host``."""
    seen = [p for p in places(events) if p.between and p.what in ("host", "detokenizer")]
    n = sum(p.samples for p in seen)
    if n < _FEWEST:
        return {"host": seconds}
    text = sum(p.samples for p in seen if p.what == "detokenizer") / n * seconds
    return {"host": seconds - text, **({"detokenizer": text} if text else {})}
