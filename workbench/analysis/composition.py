"""What a forward consists of: kernel windows scaled to the forwards that nobody looked at.

A window holds one forward under the profiler, which makes it longer by about the same time per
operator. That time is taken off every row by its calls, and the rest is scaled so that the parts sum
to the mean forward of the step clock (forwards under the profiler are not in it).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from workbench import events as ev

#: Kernel class -> part of the forward; the rest is ``small``.
PART_OF = {"matmul": "weights", "attention": "attention", "dequant": "dequant", "shape": "launch"}
#: Parts of a forward, in the order in which they are drawn.
FORWARD_PARTS = ("weights", "attention", "dequant", "small", "launch", "stalled")
#: A gap longer than this many dispatches per operator is not launching: the host does something else.
_LONGEST_LAUNCH = 25
#: Dispatch of a tiny operator where nobody measured it, seconds.
_DISPATCH_S = 2e-6


@dataclass(frozen=True)
class Line:
    """One operator or kernel behind a part: seconds and calls per forward, all layers together."""

    part: str
    name: str
    module: str
    seconds: float
    calls: float
    floor_s: float | None = None
    kind: str = "op"


@dataclass(frozen=True)
class Composition:
    """Seconds per forward by part; they sum to ``forward_s``. ``windows``: how many were looked at.

    ``other_share``: share of the forward in operators of no known class (views, allocation)."""

    phase: str
    forward_s: float
    parts: dict[str, float]
    lines: tuple[Line, ...]
    windows: int
    on_device: bool
    other_share: float = 0.0


def forward_times(events: Iterable[ev.Event]) -> dict[str, tuple[float, int]]:
    """phase -> (seconds inside forwards, how many), as the step clock saw them."""
    found: dict[str, tuple[float, int]] = {}
    for e in events:
        if isinstance(e, ev.StepTime):
            seconds, n = found.get(e.phase, (0.0, 0))
            found[e.phase] = seconds + e.forward_s, n + e.forwards
    return found


def compositions(events: Iterable[ev.Event]) -> dict[str, Composition]:
    """One per phase that has a window with kernels in it and forwards beside it."""
    events = list(events)
    windows: dict[str, list[ev.KernelWindow]] = defaultdict(list)
    rows: dict[int, list[ev.Kernel]] = defaultdict(list)
    for e in events:
        if isinstance(e, ev.KernelWindow) and e.wall_s and e.host_events:
            windows[e.phase].append(e)
        elif isinstance(e, ev.Kernel):
            rows[e.window].append(e)
    times = forward_times(events)
    found = {}
    for phase, seen in windows.items():
        seen = [w for w in seen if rows[w.window]]
        if not seen:
            continue
        seconds, n = times.get(phase, (0.0, 0))
        plain = seconds / n if n else _shortest(seen)
        found[phase] = _compose(phase, seen, rows, plain)
    return found


def _shortest(windows: list[ev.KernelWindow]) -> float:
    return min(w.wall_s or 0.0 for w in windows)


def _middle(windows: list[ev.KernelWindow]) -> list[ev.KernelWindow]:
    """Windows that no neighbour stretched: the shorter half, at least one."""
    ordered = sorted(windows, key=lambda w: w.wall_s or 0.0)
    return ordered[:max(1, (len(ordered) + 1) // 2)]


def _compose(phase: str, windows: list[ev.KernelWindow], rows: dict[int, list[ev.Kernel]],
             plain: float) -> Composition:
    on_device = any(w.device_events for w in windows)
    kind = "kernel" if on_device else "op"
    used = _middle(windows)
    sums: dict[str, float] = defaultdict(float)
    lines: dict[tuple[str, str, str], list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0, 1.0])
    unknown = 0.0
    for window in used:
        own = [k for k in rows[window.window] if k.kind == kind]
        cost = 0.0 if on_device else max(0.0, ((window.wall_s or 0.0) - plain)
                                         / max(1, window.host_events))
        known = _DISPATCH_S if window.dispatch_s is None else window.dispatch_s
        dispatch = 0.0 if on_device else known
        launch = 0.0
        for k in own:
            seconds = max(0.0, k.total_s - k.calls * cost)
            held = min(seconds, k.calls * dispatch)
            launch += held
            part = PART_OF.get(k.cls, "small")
            sums[part] += seconds - held
            unknown += seconds - held if k.cls == "other" else 0.0
            line = lines[part, k.name, role(k.module)]
            line[0] += seconds
            line[1] += k.calls
            line[2] += k.floor_s or 0.0
            line[3] = line[3] if k.floor_s is not None else 0.0
        gap = window.gap_s or 0.0
        room = _LONGEST_LAUNCH * (window.dispatch_s or _DISPATCH_S) * max(1, window.host_events)
        sums["launch"] += launch + (gap if on_device else min(gap, room))
        sums["stalled"] += 0.0 if on_device else max(0.0, gap - room)
    whole = sum(sums.values()) or 1.0
    scale = plain / whole
    parts = {p: sums[p] * scale for p in FORWARD_PARTS if sums.get(p)}
    n = len(used)
    return Composition(
        phase, plain, parts,
        tuple(Line(part, name, module, v[0] / n, v[1] / n, v[2] / n if v[3] else None, kind)
              for (part, name, module), v in sorted(lines.items(), key=lambda i: -i[1][0])),
        len(windows), on_device, unknown / whole)


def role(module: str) -> str:
    """A module's name without its place: ``model.layers.3.mlp.up_proj`` is ``mlp.up_proj``."""
    parts = module.split(".")
    for i in range(len(parts) - 1, -1, -1):
        if parts[i].isdigit():
            return ".".join(parts[i + 1:])
    return ".".join(parts[-1:])
