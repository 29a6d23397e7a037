"""Profiler events of one forward -> rows by layer, module and operator that sum to the forward.

Host: every instant of the forward's thread belongs to the innermost operator that is open, or to the
gap between operators (Python, and launching). Device: a kernel belongs to the operator that launched
it, by correlation id, and through it to a module and a layer.
"""

from __future__ import annotations

import bisect
import heapq
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

LAYER = "workbench.layer."
MODULE = "workbench.module."
_LAST = float("inf")
_HOST, _DEVICE = "op", "kernel"
#: Kineto's name for an allocation or a release.
ALLOCATION = "[memory]"
_LABELS = (LAYER, MODULE, "ProfilerStep")
_LAUNCHES = ("cuda", "cuLaunch")


@dataclass(slots=True)
class Row:
    """Self time of one name in one layer, seconds. ``bytes`` and ``flops``: what its own records
    declared, None where none did."""

    calls: int = 0
    total_s: float = 0.0
    min_s: float = float("inf")
    max_s: float = 0.0
    bytes: int | None = None
    flops: int | None = None

    def add(self, seconds: float) -> None:
        self.calls += 1
        self.total_s += seconds
        if seconds < self.min_s:
            self.min_s = seconds
        if seconds > self.max_s:
            self.max_s = seconds


class Raw(NamedTuple):
    """One profiler event, seconds on the profiler's clock. A tuple: thousands are made per window."""

    name: str
    start_s: float
    duration_s: float
    on_device: bool
    thread: int
    correlation: int

    @property
    def end_s(self) -> float:
        return self.start_s + self.duration_s


class Key(NamedTuple):
    """What one row stands for. ``operator``: who launched a device kernel, empty for host rows."""

    layer: int
    module: str
    name: str
    kind: str
    device: str
    operator: str = ""


#: Where an event belongs: layer (-1: none), dotted module path.
Owner = tuple[int, str]
_NOBODY: Owner = (-1, "")
_start, _duration = operator.itemgetter(1), operator.itemgetter(2)


def _outermost_first(event: Raw) -> tuple[float, float]:
    return event[1], -event[2]


def raws(events: Iterable[Any], device: bool = True) -> list[Raw]:
    """Kineto's events as tuples; anything that did not run on the CPU is the device's.

    ``device`` False: there is no device, so two questions per event are not asked."""
    if not device:
        return [Raw(e.name(), e.start_ns() * 1e-9, e.duration_ns() * 1e-9, False,
                    e.start_thread_id(), 0) for e in events]
    from torch.autograd import DeviceType

    cpu = DeviceType.CPU
    return [Raw(e.name(), e.start_ns() * 1e-9, e.duration_ns() * 1e-9, e.device_type() != cpu,
                e.start_thread_id(), e.correlation_id()) for e in events]


@dataclass
class Captured:
    """``slices``: (name, start, duration, track, layer), seconds from the capture's start.

    ``wall_s``: the forward; ``gap_s``: the part of it in which nothing ran (no operator on a CPU, no
    kernel on a GPU). ``peak_bytes``: the most that the forward held at once beyond what was there
    before it. None where nothing was measured. ``gaps``: (layer, module) -> the part of ``gap_s`` inside
    that module, between its operators. ``dispatched``: whether every operator's time holds its dispatch."""

    rows: dict[Key, Row] = field(default_factory=dict)
    slices: list[tuple[str, float, float, str, int]] = field(default_factory=list)
    host_events: int = 0
    device_events: int = 0
    wall_s: float | None = None
    gap_s: float | None = None
    peak_bytes: int | None = None
    gaps: dict[Owner, float] = field(default_factory=dict)
    dispatched: bool = True


def peak_bytes(events: Iterable[Any]) -> int | None:
    """The highest running sum of Kineto's allocation events; None when there are none."""
    found = sorted(((e.start_ns(), e.nbytes()) for e in events if e.name() == ALLOCATION),
                   key=operator.itemgetter(0))
    held = peak = 0
    for _, n in found:
        held += n
        peak = max(peak, held)
    return peak if found else None


def reduce(events: list[Raw], most_slices: int, modules: Mapping[int, tuple[int, str]] | None = None,
           wall_s: float | None = None) -> Captured:
    """``modules``: label number -> (layer, dotted path). ``wall_s``: the forward on the host's clock."""
    captured = Captured()
    if not events:
        return captured
    device = [e for e in events if e.on_device]
    host = [e for e in events if not e.on_device] if device else events
    selves, owners = _walk(host, modules or {})
    busy: dict[int, float] = {}
    rows: dict[tuple[Owner, str], Row] = {}
    for event in host:
        name, own = event[0], id(event)
        if name.startswith(_LABELS):
            if name.startswith(MODULE):
                captured.gaps[owners[own]] = captured.gaps.get(owners[own], 0.0) + selves[own]
            continue
        captured.host_events += 1
        seconds, thread = selves[own], event[4]
        busy[thread] = busy.get(thread, 0.0) + seconds
        place = (owners[own], name)
        row = rows.get(place)
        if row is None:
            row = rows[place] = Row()
        row.add(seconds)
    for (owner, name), row in rows.items():
        captured.rows[Key(owner[0], owner[1], name, _HOST, "cpu")] = row
    captured.device_events = len(device)
    launches = _on_device(captured, device, host, owners) if device else {}
    _gaps(captured, device, host, busy, wall_s)
    zero = min(events, key=_start).start_s
    for e in sorted(heapq.nlargest(most_slices, events, key=_duration), key=_start):
        owner = launches.get(e.correlation, _NOBODY) if e.on_device else owners[id(e)]
        captured.slices.append((e.name, e.start_s - zero, e.duration_s,
                                "GPU" if e.on_device else "CPU", owner[0]))
    return captured


def _on_device(captured: Captured, device: list[Raw], host: list[Raw], owners: Mapping[int, Owner]
               ) -> dict[int, Owner]:
    """Rows of the device's kernels; correlation id -> who launched it. The operator is the innermost
    one that was open, which the rows of the host leave out of their key."""
    launches: dict[int, Owner] = {}
    for e in host:
        if e.correlation and "aunch" in e.name:
            launches[e.correlation] = owners[id(e)]
    operators = _operators(host)
    for e in device:
        owner = launches.get(e.correlation, _NOBODY)
        key = Key(owner[0], owner[1], e.name, _DEVICE, "gpu", operators.get(e.correlation, ""))
        row = captured.rows.get(key)
        if row is None:
            row = captured.rows[key] = Row()
        row.add(e.duration_s)
    return launches


def launched_by(events: Iterable[Raw], modules: Mapping[int, tuple[int, str]]
                ) -> dict[int, tuple[int, str, str]]:
    """Correlation id -> (layer, module, operator) of every launch on the host."""
    host = [e for e in events if not e.on_device]
    owners, operators = _walk(host, modules)[1], _operators(host)
    return {e.correlation: (*owners[id(e)], operators.get(e.correlation, ""))
            for e in host if e.correlation and "aunch" in e.name}


def _operators(host: list[Raw]) -> dict[int, str]:
    """Correlation id of a launch -> the innermost operator around it, on the launch's thread."""
    found: dict[int, str] = {}
    stacks: dict[int, list[tuple[float, str]]] = {}
    for e in sorted(host, key=_outermost_first):
        stack = stacks.setdefault(e.thread, [])
        while stack and stack[-1][0] <= e.start_s:
            stack.pop()
        if e.name.startswith(_LAUNCHES):
            if e.correlation and stack:
                found[e.correlation] = stack[-1][1]
        elif not e.name.startswith(_LABELS):
            stack.append((e.start_s + e.duration_s, e.name))
    return found


def _gaps(captured: Captured, device: list[Raw], host: list[Raw], busy: Mapping[int, float],
          wall_s: float | None) -> None:
    """Where nothing ran. A GPU is busy when any stream is; a CPU when an operator is open."""
    if device:
        start = min([*(e.start_s for e in host), *(e.start_s for e in device)])
        wall = max(e.end_s for e in device) - start
        captured.wall_s, captured.gap_s = wall, max(0.0, wall - union(device))
    elif wall_s is not None:
        captured.wall_s = wall_s
        captured.gap_s = max(0.0, wall_s - max(busy.values(), default=0.0))


def union(events: Iterable[Raw]) -> float:
    """Seconds that at least one of the events covers."""
    return union_of((e.start_s, e.end_s) for e in events)


def union_of(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of the union of (start, end)."""
    total, reached = 0.0, -_LAST
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _walk(host: Iterable[Raw], modules: Mapping[int, tuple[int, str]]
          ) -> tuple[dict[int, float], dict[int, Owner]]:
    """id(event) -> its duration less its children's, and the layer and module it belongs to."""
    selves: dict[int, float] = {}
    owners: dict[int, Owner] = {}
    stacks: dict[int, list[tuple[float, int]]] = {}  # (end, id) of what is open
    for event in sorted(host, key=_outermost_first):
        name, start_s, duration_s, _device, thread, _correlation = event
        stack = stacks.get(thread)
        if stack is None:
            stack = stacks[thread] = []
        while stack and stack[-1][0] <= start_s:
            stack.pop()
        own = id(event)
        owner = _NOBODY
        if stack:
            # Under load a range may seem to outlive the one around it by a clock's reading.
            duration_s = min(duration_s, stack[-1][0] - start_s)
            parent = stack[-1][1]
            left = selves[parent] - duration_s
            selves[parent] = left if left > 0.0 else 0.0
            owner = owners[parent]
        selves[own] = duration_s
        if name.startswith(_LABELS):
            owner = _labelled(name, owner, modules)
        owners[own] = owner
        stack.append((start_s + duration_s, own))
    return selves, owners


def _labelled(name: str, outer: Owner, modules: Mapping[int, tuple[int, str]]) -> Owner:
    if name.startswith(LAYER):
        return int(name[len(LAYER):]), outer[1]
    if name.startswith(MODULE):
        layer, path = modules.get(int(name[len(MODULE):]), (-1, ""))
        return (layer if layer >= 0 else outer[0]), path
    return outer


def self_times(host: Iterable[Raw]) -> dict[int, float]:
    """id(event) -> its duration less its children's, per thread; events sorted by start."""
    return _walk(host, {})[0]


def layer_at(layers: list[tuple[float, float, int]], moment: float) -> int:
    """The layer whose interval holds ``moment``, or -1."""
    place = bisect.bisect_right(layers, (moment, _LAST, 0)) - 1
    if place >= 0 and layers[place][0] <= moment <= layers[place][1]:
        return layers[place][2]
    return -1
