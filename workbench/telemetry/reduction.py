"""Profiler events of one forward -> rows by layer, module and operator that sum to the forward.

Host: every instant of the forward's thread belongs to the innermost operator that is open, or to the
gap between operators (Python, and launching). Device: a kernel belongs to the operator that launched
it, by correlation id, and through it to a module and a layer.
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

LAYER = "workbench.layer."
MODULE = "workbench.module."
_LAST = float("inf")
_HOST, _DEVICE = "op", "kernel"


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


class Owner(NamedTuple):
    """Where an event belongs: layer (-1: none), dotted module path, operator."""

    layer: int
    module: str
    operator: str


_NOBODY = Owner(-1, "", "")


def raws(events: Iterable[Any]) -> list[Raw]:
    """Kineto's events as tuples; anything that did not run on the CPU is the device's."""
    from torch.autograd import DeviceType

    cpu = DeviceType.CPU
    return [Raw(e.name(), e.start_ns() * 1e-9, e.duration_ns() * 1e-9, e.device_type() != cpu,
                e.start_thread_id(), e.correlation_id()) for e in events]


@dataclass
class Captured:
    """``slices``: (name, start, duration, track, layer), seconds from the capture's start.

    ``wall_s``: the forward; ``gap_s``: the part of it in which nothing ran (no operator on a CPU, no
    kernel on a GPU). ``busy_s``: the rest. None where nothing was measured."""

    rows: dict[Key, Row] = field(default_factory=dict)
    slices: list[tuple[str, float, float, str, int]] = field(default_factory=list)
    host_events: int = 0
    device_events: int = 0
    wall_s: float | None = None
    gap_s: float | None = None


def reduce(events: list[Raw], most_slices: int, modules: Mapping[int, tuple[int, str]] | None = None,
           wall_s: float | None = None) -> Captured:
    """``modules``: label number -> (layer, dotted path). ``wall_s``: the forward on the host's clock."""
    captured = Captured()
    if not events:
        return captured
    zero = min(e.start_s for e in events)
    host = sorted((e for e in events if not e.on_device), key=lambda e: (e.start_s, -e.duration_s))
    selves, owners = _walk(host, modules or {})
    busy: dict[int, float] = {}
    for event in host:
        if event.name.startswith((LAYER, MODULE, "ProfilerStep")):
            continue
        captured.host_events += 1
        owner, own = owners[id(event)], selves[id(event)]
        busy[event.thread] = busy.get(event.thread, 0.0) + own
        _add(captured, Key(owner.layer, owner.module, event.name, _HOST, "cpu"), own)
    device = [e for e in events if e.on_device]
    captured.device_events = len(device)
    launches = {e.correlation: owners[id(e)] for e in host if e.correlation and "aunch" in e.name}
    for event in device:
        owner = launches.get(event.correlation, _NOBODY)
        _add(captured, Key(owner.layer, owner.module, event.name, _DEVICE, "gpu", owner.operator),
             event.duration_s)
    _gaps(captured, device, host, busy, wall_s)
    for e in sorted(heapq.nlargest(most_slices, events, key=lambda e: e.duration_s),
                    key=lambda e: e.start_s):
        owner = (launches.get(e.correlation, _NOBODY) if e.on_device else owners[id(e)])
        captured.slices.append((e.name, e.start_s - zero, e.duration_s,
                                "GPU" if e.on_device else "CPU", owner.layer))
    return captured


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


def _add(captured: Captured, key: Key, seconds: float) -> None:
    row = captured.rows.get(key)
    if row is None:
        row = captured.rows[key] = Row()
    row.add(seconds)


def _walk(host: Iterable[Raw], modules: Mapping[int, tuple[int, str]]
          ) -> tuple[dict[int, float], dict[int, Owner]]:
    """id(event) -> its duration less its children's, and where it belongs; sorted by start."""
    selves: dict[int, float] = {}
    owners: dict[int, Owner] = {}
    stacks: dict[int, list[tuple[float, int]]] = {}  # (end, id) of what is open
    for event in host:
        name, start_s, duration_s, _device, thread, _correlation = event
        stack = stacks.setdefault(thread, [])
        while stack and stack[-1][0] <= start_s:
            stack.pop()
        own = id(event)
        selves[own] = duration_s
        outer = _NOBODY
        if stack:
            parent = stack[-1][1]
            selves[parent] = max(0.0, selves[parent] - duration_s)
            outer = owners[parent]
        owners[own] = _owner(name, outer, modules)
        stack.append((start_s + duration_s, own))
    return selves, owners


def _owner(name: str, outer: Owner, modules: Mapping[int, tuple[int, str]]) -> Owner:
    if name.startswith(LAYER):
        return Owner(int(name[len(LAYER):]), outer.module, "")
    if name.startswith(MODULE):
        layer, path = modules.get(int(name[len(MODULE):]), (-1, ""))
        return Owner(layer if layer >= 0 else outer.layer, path, "")
    # A launch call is the runtime's, not the operator's.
    return outer if name.startswith(("cuda", "cuLaunch")) else outer._replace(operator=name)


def self_times(host: Iterable[Raw]) -> dict[int, float]:
    """id(event) -> its duration less its children's, per thread; events sorted by start."""
    return _walk(host, {})[0]


def layer_at(layers: list[tuple[float, float, int]], moment: float) -> int:
    """The layer whose interval holds ``moment``, or -1."""
    place = bisect.bisect_right(layers, (moment, _LAST, 0)) - 1
    if place >= 0 and layers[place][0] <= moment <= layers[place][1]:
        return layers[place][2]
    return -1
