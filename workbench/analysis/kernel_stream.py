"""The live kernel stream: by phase, layer and class, what moved against a baseline, what looking cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from workbench import events as ev
from workbench.analysis.composition import role


@dataclass(frozen=True)
class Mover:
    """One kernel of one phase: seconds per forward in both runs."""

    phase: str
    name: str
    module: str
    seconds: float
    before: float | None
    calls: float

    @property
    def change(self) -> float:
        return self.seconds - (self.before or 0.0)


@dataclass(frozen=True)
class Overheads:
    """What looking cost: ``seconds`` over ``of`` seconds of the run, by its own meter."""

    windows: int
    seconds: float
    of: float
    forwards: int
    bytes: int = 0

    @property
    def share(self) -> float:
        return self.seconds / self.of if self.of else 0.0


def by_kernel(events: Iterable[ev.Event]) -> dict[tuple[str, str, str], tuple[float, float]]:
    """(phase, name, role) -> (seconds, calls) per forward, over the windows."""
    kernels = [e for e in events if isinstance(e, ev.Kernel)]
    windows: dict[str, set[int]] = defaultdict(set)
    sums: dict[tuple[str, str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    # Where a device computes, its kernels are the rows, not the host's operators.
    kind = "kernel" if any(k.kind == "kernel" for k in kernels) else "op"
    for k in kernels:
        windows[k.phase].add(k.window)
        if k.kind == kind:
            row = sums[k.phase, k.name, role(k.module)]
            row[0] += k.total_s
            row[1] += k.calls
    return {key: (s / len(windows[key[0]]), c / len(windows[key[0]])) for key, (s, c) in sums.items()}


def movers(events: Iterable[ev.Event], baseline: Iterable[ev.Event] | None, most: int = 15) -> list[Mover]:
    """Largest change first; without a baseline the longest first. Kernels that only the baseline had
    are movers, too."""
    mine = by_kernel(events)
    theirs = by_kernel(baseline) if baseline is not None else None
    found = [Mover(p, n, m, s, None if theirs is None else theirs.get((p, n, m), (0.0, 0.0))[0], c)
             for (p, n, m), (s, c) in mine.items()]
    if theirs is None:
        return sorted(found, key=lambda x: -x.seconds)[:most]
    phases = {p for p, _, _ in mine}
    found += [Mover(p, n, m, 0.0, s, 0.0) for (p, n, m), (s, _) in theirs.items()
              if (p, n, m) not in mine and p in phases]
    return sorted(found, key=lambda x: -abs(x.change))[:most]


def by_layer(events: Iterable[ev.Event]) -> dict[tuple[str, int], dict[str, float]]:
    """(phase, layer) -> class -> seconds per forward."""
    kernels = [e for e in events if isinstance(e, ev.Kernel)]
    kind = "kernel" if any(k.kind == "kernel" for k in kernels) else "op"
    windows: dict[str, set[int]] = defaultdict(set)
    found: dict[tuple[str, int], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for k in kernels:
        windows[k.phase].add(k.window)
    for k in kernels:
        if k.kind == kind:
            found[k.phase, k.layer][k.cls] += k.total_s / len(windows[k.phase])
    return {key: dict(classes) for key, classes in found.items()}


def overhead(events: Iterable[ev.Event]) -> Overheads:
    """The meter's figure: everything that windows cost, the slower forwards under them included."""
    events = list(events)
    windows = [e for e in events if isinstance(e, ev.KernelWindow) and e.host_events + e.device_events]
    tokens = [e.t_s for e in events if isinstance(e, ev.Token)]
    forwards = sum(e.forwards for e in events if isinstance(e, ev.StepTime))
    return Overheads(len(windows), sum(w.overhead_s for w in windows), max(tokens, default=0.0),
                     forwards + len(windows), 0)


def attributed(events: Iterable[ev.Event]) -> float | None:
    """Share of the windows' forwards in operators of a known class or in a measured gap; None
    without windows."""
    events = list(events)
    windows = {e.window: e for e in events if isinstance(e, ev.KernelWindow) and e.wall_s}
    wall = sum(w.wall_s or 0.0 for w in windows.values())
    if not wall:
        return None
    other = sum(e.total_s for e in events if isinstance(e, ev.Kernel) and e.cls == "other"
                and e.window in windows and e.kind == ("kernel" if windows[e.window].device_events
                                                      else "op"))
    return 1.0 - other / wall
