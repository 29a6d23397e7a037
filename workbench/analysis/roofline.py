"""Measured points over measured ceilings: how far is each kernel from what this machine can do?

A point is one operator of one module, all layers together, by phase; or one layer. Only rows whose
bytes and FLOPs are known are points. The time is the windows' own, corrected for the profiler as in
:mod:`workbench.analysis.composition`. After Williams et al. 2009 (Roofline, CACM 52/4).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from workbench import events as ev
from workbench.analysis.composition import forward_times, role


@dataclass(frozen=True)
class Ceilings:
    """``bytes_per_s flops_per_s`` measured on the run's machine; None where they were not."""

    bytes_per_s: float | None
    flops_per_s: float | None
    device: str = "cpu"
    measured_on: str = ""

    @property
    def ridge(self) -> float | None:
        """FLOP per byte above which computing, not memory, is the limit."""
        if not self.bytes_per_s or not self.flops_per_s:
            return None
        return self.flops_per_s / self.bytes_per_s

    def floor_s(self, moved: float, flops: float) -> float | None:
        if not self.bytes_per_s or not self.flops_per_s:
            return None
        return max(moved / self.bytes_per_s, flops / self.flops_per_s)


@dataclass(frozen=True)
class Point:
    """Per forward: ``seconds moved flops``. ``layer`` -1: all layers together."""

    phase: str
    name: str
    module: str
    layer: int
    seconds: float
    moved: float
    flops: float
    floor_s: float | None
    calls: float

    @property
    def intensity(self) -> float:
        return self.flops / self.moved if self.moved else 0.0

    @property
    def rate(self) -> float:
        """FLOP per second."""
        return self.flops / self.seconds if self.seconds else 0.0

    @property
    def share_of_ceiling(self) -> float | None:
        """1: at the roof."""
        return self.floor_s / self.seconds if self.floor_s is not None and self.seconds else None

    @property
    def lost_s(self) -> float | None:
        """Seconds per forward above the floor."""
        return max(0.0, self.seconds - self.floor_s) if self.floor_s is not None else None


def ceilings_of(machine: Mapping[str, Any], device: str = "cpu", dtype: str = "bf16") -> Ceilings:
    """From a run's ``environment["machine"]``."""
    known = machine.get("ceilings") or {}
    gpu = device == "gpu"
    return Ceilings(known.get("gpu_bytes_per_s" if gpu else "ram_bytes_per_s"),
                    known.get(f"{'gpu_' if gpu else ''}gemm_{dtype}_flops"), device,
                    str(machine.get("measured_on") or ""))


def points(events: Iterable[ev.Event], ceilings: Ceilings, by_layer: bool = False) -> list[Point]:
    """Most time first. ``by_layer``: one point per layer and phase instead of per operator."""
    events = list(events)
    windows = {e.window: e for e in events if isinstance(e, ev.KernelWindow)}
    times = forward_times(events)
    kernels = [e for e in events if isinstance(e, ev.Kernel) and e.bytes is not None]
    seen: dict[str, set[int]] = defaultdict(set)
    sums: dict[tuple[str, str, str, int], list[float]] = defaultdict(lambda: [0.0] * 4)
    for k in kernels:
        window = windows.get(k.window)
        seen[k.phase].add(k.window)
        seconds = max(k.total_s * 0.2, k.total_s - k.calls * _cost(window, times))
        key = ((k.phase, "all of the layer", "", k.layer) if by_layer
               else (k.phase, k.name, role(k.module), -1))
        row = sums[key]
        for i, value in enumerate((seconds, k.bytes or 0, k.flops or 0, k.calls)):
            row[i] += value
    found = []
    for (phase, name, module, layer), (seconds, moved, flops, calls) in sums.items():
        n = len(seen[phase])
        found.append(Point(phase, name, module, layer, seconds / n, moved / n, flops / n,
                           ceilings.floor_s(moved / n, flops / n), calls / n))
    return sorted(found, key=lambda p: -p.seconds)


def _cost(window: ev.KernelWindow | None, times: Mapping[str, tuple[float, int]]) -> float:
    """Seconds that the profiler added to every operator of this window."""
    if window is None or not window.wall_s or not window.host_events or window.device_events:
        return 0.0
    seconds, n = times.get(window.phase, (0.0, 0))
    return max(0.0, window.wall_s - seconds / n) / window.host_events if n else 0.0

