"""What a run says about itself besides its times: threads, neighbours, copies, functions, floors."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from workbench import events as ev
from workbench.analysis.composition import compositions
from workbench.analysis.hosttime import Place, places
from workbench.analysis.interference import disturbance, mean


@dataclass(frozen=True)
class Evidence:
    """``threads cores``: 0 where the run does not say. ``disturbed``: estimated share by which
    neighbours stretched the work (0: alone). ``floors``: part -> seconds per forward that it must
    take. ``computing``: the work is matrix products, which threads share."""

    threads: int = 0
    cores: int = 0
    disturbed: float = 0.0
    others: float = 0.0
    places: tuple[Place, ...] = ()
    copied_bytes_per_s: float | None = None
    floors: dict[str, float] = field(default_factory=dict)
    computing: bool = False

    @property
    def neighbour_words(self) -> str:
        share = f"{100 * self.others:.0f} % of this machine's processors" if self.others else "a core"
        return f"{share} (our threads waited for a core: {1 + self.disturbed:.2f} times as slow)"


def gather(events: Iterable[ev.Event]) -> Evidence:
    events = list(events)
    threads, cores = _threads(events)
    slowdown, others = _neighbours(events)
    floors = _floors(events)
    return Evidence(threads, cores, max(0.0, slowdown - 1.0), others, tuple(places(events)),
                    _copies(events), floors, bool(floors.get("weights")))


def _threads(events: list[ev.Event]) -> tuple[int, int]:
    """(threads that computed, cores of the machine when the record of it says so)."""
    for e in reversed(events):
        if isinstance(e, ev.Effective) and e.path == "compute.threads":
            numbers = [int(n) for n in re.findall(r"\d+", e.effective)]
            of = re.search(r"of (\d+)", e.effective)
            return (numbers[0] if numbers else 0), int(of[1]) if of else 0
    return 0, 0


def _neighbours(events: list[ev.Event]) -> tuple[float, float]:
    """(estimated slowdown, share of the machine that other processes used)."""
    found = disturbance(events)
    others = mean([e for e in events if isinstance(e, ev.Interference)], "others")
    return found.slowdown or 1.0, others or 0.0


def _copies(events: list[ev.Event]) -> float | None:
    moved = [e for e in events if isinstance(e, ev.Transfer) and e.end_s > e.start_s]
    seconds = sum(e.end_s - e.start_s for e in moved)
    return sum(e.bytes for e in moved) / seconds if seconds else None


def _floors(events: list[ev.Event]) -> dict[str, float]:
    """Part -> floor of its rows, seconds per target forward; only parts whose work is known."""
    found: dict[str, float] = defaultdict(float)
    for phase in ("verify", "decode"):
        made = compositions(events).get(phase)
        if made is None:
            continue
        for line in made.lines:
            if line.floor_s and line.part in ("weights", "attention"):
                found[line.part] += line.floor_s
        break
    return dict(found)
