"""Memory in inference terms: peaks by tier and use, activations, and what was held when it ran out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from workbench import events as ev

USES = {"weights_bytes": "weights", "kv_bytes": "KV cache", "activations_bytes": "activations",
        "draft_bytes": "draft", "workspace_bytes": "workspace"}


@dataclass(frozen=True)
class TierPeak:
    """The reading with the largest total. ``uses``: name -> bytes, None with ``reasons`` where nobody
    measured it; ``rest``: what the runtime does not account for (libraries, allocator)."""

    tier: str
    at_s: float
    total: int
    limit: int
    uses: dict[str, int | None]
    rest: int
    source: str
    reasons: dict[str, str]


def peaks(events: Iterable[ev.Event]) -> list[TierPeak]:
    """One per tier in use. Activations come from the kernel windows, which see what a forward
    allocates; without a window they are not known."""
    events = list(events)
    best: dict[str, ev.Memory] = {}
    for e in events:
        if isinstance(e, ev.Memory) and (e.tier not in best or e.total_bytes > best[e.tier].total_bytes):
            best[e.tier] = e
    held = activations(events)
    compute = "gpu" if "gpu" in best else "ram"
    return [_peak(best[t], held if t == compute else 0) for t in ("gpu", "ram", "disk") if t in best]


def _peak(e: ev.Memory, seen: int | None) -> TierPeak:
    uses: dict[str, int | None] = {name: getattr(e, key) for key, name in USES.items()}
    reasons = {}
    uses["activations"] = e.activations_bytes or seen
    if uses["activations"] is None:
        reasons["activations"] = "no kernel window looked at this run's allocations"
    rest = e.total_bytes - sum(v or 0 for v in uses.values())
    return TierPeak(e.tier, e.t_s, e.total_bytes, e.limit_bytes, uses, max(0, rest), e.source, reasons)


def activations(events: Iterable[ev.Event]) -> int | None:
    """The most that one forward's activations held at once, over the windows that looked."""
    found = [e.peak_bytes for e in events
             if isinstance(e, ev.KernelWindow) and e.peak_bytes is not None]
    return max(found) if found else None


def failures(events: Iterable[ev.Event]) -> list[ev.MemoryFailure]:
    """What was held when memory ran out; empty for runs in which it did not."""
    return [e for e in events if isinstance(e, ev.MemoryFailure)]


def at_the_end(events: Iterable[ev.Event]) -> dict[str, ev.Memory]:
    """tier -> the last reading that says what the memory was for."""
    found: dict[str, ev.Memory] = {}
    for e in events:
        if isinstance(e, ev.Memory) and e.source != "after unloading":
            found[e.tier] = e
    return found
