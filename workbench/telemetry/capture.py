"""One bounded capture with torch.profiler, and its reduction to rows.

A capture covers exactly one forward: it starts before and stops after it on the same thread, because
the profiler's state is thread-local and must not cross the runtime's own contexts. The raw Kineto
events are read directly; building torch's event tree costs about ten times as much.
"""

from __future__ import annotations

import bisect
import heapq
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from workbench.telemetry.selftest import quiet

LAYER = "workbench.layer."
_LAST = float("inf")


@dataclass(slots=True)
class Row:
    """Self time of one name in one layer, seconds."""

    calls: int = 0
    total_s: float = 0.0
    min_s: float = float("inf")
    max_s: float = 0.0

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


def raws(events: Iterable[Any]) -> list[Raw]:
    """Kineto's events as tuples; anything that did not run on the CPU is the device's."""
    from torch.autograd import DeviceType

    cpu = DeviceType.CPU
    return [Raw(e.name(), e.start_ns() * 1e-9, e.duration_ns() * 1e-9, e.device_type() != cpu,
                e.start_thread_id(), e.correlation_id()) for e in events]


@dataclass
class Captured:
    """``rows``: (layer, name, kind, device) -> Row; ``slices``: (name, start, duration, track,
    layer), seconds from the capture's start."""

    rows: dict[tuple[int, str, str, str], Row] = field(default_factory=dict)
    slices: list[tuple[str, float, float, str, int]] = field(default_factory=list)
    host_events: int = 0
    device_events: int = 0


class Capture:
    """``start()``, one forward, ``stop()``, ``read()``. The durations of the first two and the last
    are in ``overhead_s``."""

    def __init__(self, layers: list[Any], cuda: bool) -> None:
        self._layers, self._cuda = layers, cuda
        self._handles: list[Any] = []
        self._open: list[Any] = []
        self.overhead_s = 0.0
        self.reason = ""

    def start(self) -> None:
        """Raises RuntimeError where a profiler is open already: torch would end it without a word."""
        import torch
        from torch.profiler import ProfilerActivity, profile

        began = time.perf_counter()
        if torch.autograd._profiler_enabled():  # type: ignore[attr-defined]
            raise RuntimeError("another torch profiler is open on this thread")
        quiet()
        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._cuda else [])]
        self._profile = profile(activities=kinds)
        self._profile.start()
        for index, layer in enumerate(self._layers):
            self._handles.append(layer.register_forward_pre_hook(self._enter(index)))
            self._handles.append(layer.register_forward_hook(self._leave))
        self.overhead_s += time.perf_counter() - began

    def stop(self) -> None:
        began = time.perf_counter()
        self._profile.stop()
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.overhead_s += time.perf_counter() - began

    def _enter(self, index: int) -> Any:
        import torch

        def hook(module: Any, arguments: Any) -> None:
            label = torch.profiler.record_function(f"{LAYER}{index}")
            label.__enter__()
            self._open.append(label)

        return hook

    def _leave(self, module: Any, arguments: Any, output: Any) -> None:
        if self._open:
            self._open.pop().__exit__(None, None, None)

    def read(self, most_slices: int = 1000) -> Captured:
        """The reduced capture. Costs milliseconds; counted in ``overhead_s``."""
        began = time.perf_counter()
        profiler = self._profile.profiler
        results = profiler.kineto_results if profiler is not None else None
        events = raws(results.events()) if results is not None else []
        captured = reduce(events, most_slices)
        if self._cuda and not captured.device_events:
            self.reason = ("no GPU events: another profiler may hold the GPU's counters "
                           "(close Nsight, DCGM or a second capture)")
        self.overhead_s += time.perf_counter() - began
        return captured


def reduce(events: list[Raw], most_slices: int) -> Captured:
    """Rows by layer and name: self time on the host, duration on the device."""
    captured = Captured()
    if not events:
        return captured
    zero = min(e.start_s for e in events)
    host = sorted((e for e in events if not e.on_device), key=lambda e: (e.start_s, -e.duration_s))
    layers = sorted((e.start_s, e.end_s, int(e.name[len(LAYER):])) for e in host
                    if e.name.startswith(LAYER))
    selves = self_times(host)
    launches = {e.correlation: e for e in host if e.correlation and "aunch" in e.name}
    for event in host:
        if event.name.startswith((LAYER, "ProfilerStep")):
            continue
        captured.host_events += 1
        _add(captured, event, layer_at(layers, event.start_s), "op", "cpu", selves[id(event)])
    for event in (e for e in events if e.on_device):
        captured.device_events += 1
        launch = launches.get(event.correlation)
        layer = layer_at(layers, launch.start_s) if launch else -1
        _add(captured, event, layer, "kernel", "gpu", event.duration_s)
    longest = heapq.nlargest(most_slices, events, key=lambda e: e.duration_s)
    for e in sorted(longest, key=lambda e: e.start_s):
        captured.slices.append((e.name, e.start_s - zero, e.duration_s,
                                "GPU" if e.on_device else "CPU", layer_at(layers, e.start_s)))
    return captured


def _add(captured: Captured, event: Raw, layer: int, kind: str, device: str, seconds: float) -> None:
    key = (layer, event.name, kind, device)
    row = captured.rows.get(key)
    if row is None:
        row = captured.rows[key] = Row()
    row.add(seconds)


def self_times(host: Iterable[Raw]) -> dict[int, float]:
    """id(event) -> its duration less its children's, per thread; events sorted by start."""
    selves: dict[int, float] = {}
    stacks: dict[int, list[tuple[float, int]]] = {}  # (end, id) of what is open
    for event in host:
        _name, start_s, duration_s, _device, thread, _correlation = event
        stack = stacks.setdefault(thread, [])
        while stack and stack[-1][0] <= start_s:
            stack.pop()
        own = id(event)
        selves[own] = duration_s
        if stack:
            parent = stack[-1][1]
            selves[parent] = max(0.0, selves[parent] - duration_s)
        stack.append((start_s + duration_s, own))
    return selves


def layer_at(layers: list[tuple[float, float, int]], moment: float) -> int:
    """The layer whose interval holds ``moment``, or -1."""
    place = bisect.bisect_right(layers, (moment, _LAST, 0)) - 1
    if place >= 0 and layers[place][0] <= moment <= layers[place][1]:
        return layers[place][2]
    return -1
