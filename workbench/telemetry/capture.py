"""One bounded capture with torch.profiler, and its reduction to rows.

A capture covers exactly one forward: it starts before and stops after it on the same thread, because
the profiler's state is thread-local and must not cross the runtime's own contexts. The raw Kineto
events are read directly; building torch's event tree costs about ten times as much.
"""

from __future__ import annotations

import time

from workbench.telemetry.modules import Modules
from workbench.telemetry.reduction import (
    ALLOCATION,
    Captured,
    Key,
    Raw,
    Row,
    layer_at,
    peak_bytes,
    raws,
    reduce,
    self_times,
)
from workbench.telemetry.selftest import quiet

__all__ = ["Capture", "Captured", "Key", "Raw", "Row", "layer_at", "raws", "reduce", "self_times"]


class Capture:
    """``start()``, one forward, ``stop()``, ``read()``. The durations of the first two and the last
    are in ``overhead_s``."""

    def __init__(self, modules: Modules, cuda: bool, memory: bool = False) -> None:
        """``memory``: also see what the forward allocates; half as many events again."""
        self._modules, self._cuda, self._memory = modules, cuda, memory
        self.overhead_s = 0.0
        self.reason = ""
        self._began = self._ended = 0.0

    def start(self) -> None:
        """Raises RuntimeError where a profiler is open already: torch would end it without a word."""
        import torch
        from torch.profiler import ProfilerActivity, profile

        began = time.perf_counter()
        if torch.autograd._profiler_enabled():  # type: ignore[attr-defined]
            raise RuntimeError("another torch profiler is open on this thread")
        quiet()
        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._cuda else [])]
        self._profile = profile(activities=kinds, profile_memory=self._memory)
        self._profile.start()
        self._modules.listen()
        self._began = time.perf_counter()
        self.overhead_s += self._began - began

    def stop(self) -> None:
        self._ended = time.perf_counter()
        self._profile.stop()
        self._modules.silence()
        self.overhead_s += time.perf_counter() - self._ended

    @property
    def wall_s(self) -> float:
        """The forward alone, on the host's clock."""
        return self._ended - self._began

    def read(self, most_slices: int = 1000) -> Captured:
        """The reduced capture. Costs milliseconds; counted in ``overhead_s``."""
        began = time.perf_counter()
        profiler = self._profile.profiler
        results = profiler.kineto_results if profiler is not None else None
        found = results.events() if results is not None else []
        peak = None
        if self._memory:
            peak = peak_bytes(found)
            found = [e for e in found if e.name() != ALLOCATION]
        captured = reduce(raws(found, self._cuda), most_slices, self._modules.table, self.wall_s)
        captured.peak_bytes = peak
        if self._cuda and not captured.device_events:
            self.reason = ("no GPU events: another profiler may hold the GPU's counters "
                           "(close Nsight, DCGM or a second capture)")
        self.overhead_s += time.perf_counter() - began
        return captured
