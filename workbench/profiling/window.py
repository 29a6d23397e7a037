"""One forward under the profiler, reduced to time by module and operator that sums to the forward.

A window holds exactly one forward on this thread. An operator that the dispatcher saw (see
``costs``) takes the time of what it called inside, so that its bytes and its FLOPs belong to its
time; what no operator covers is the module's own Python.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from workbench.errors import SettingsError
from workbench.profiling.inputs import Call
from workbench.profiling.paths import MARK, Paths
from workbench.telemetry.reduction import Raw, Row, raws

#: The row of what a module does between its operators.
PYTHON = "python"


@dataclass
class Seen:
    """``rows``: (module number, name, kind, device) -> time. ``slices``: (name, start, duration,
    track, module number), seconds from the window's start. ``whole_s``: the forward's duration."""

    rows: dict[tuple[int, str, str, str], Row] = field(default_factory=dict)
    slices: list[tuple[str, float, float, str, int]] = field(default_factory=list)
    whole_s: float = 0.0
    host_events: int = 0
    device_events: int = 0
    overhead_s: float = 0.0


class Ranges:
    """Puts a profiler range around every module."""

    def __init__(self) -> None:
        self._open: list[Any] = []

    def enter(self, index: int) -> None:
        import torch

        label = torch.profiler.record_function(f"{MARK}{index}")
        label.__enter__()
        self._open.append(label)

    def leave(self, index: int) -> None:
        if self._open:
            self._open.pop().__exit__(None, None, None)


def look(module: Any, call: Call, paths: Paths, counted: set[tuple[int, str]], cuda: bool,
         most_slices: int = 400, started: Callable[[], None] = lambda: None) -> Seen:
    """Profile one forward. Raises SettingsError when another profiler is open on this thread."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from workbench.telemetry.selftest import quiet

    if torch.autograd._profiler_enabled():  # type: ignore[attr-defined]
        raise SettingsError("another torch profiler is open on this thread; close it first")
    began = time.perf_counter()
    quiet()
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    paths.listen(Ranges())
    window = profile(activities=kinds)
    window.start()
    started()
    ready = time.perf_counter()
    try:
        output = module(*call.args, **call.kwargs)
        if cuda:
            torch.cuda.synchronize()
        done = time.perf_counter()
    finally:
        window.stop()
        paths.silence()
    del output
    results = window.profiler.kineto_results if window.profiler is not None else None
    seen = reduce(raws(results.events()) if results is not None else [], counted, most_slices)
    seen.overhead_s = time.perf_counter() - began - (done - ready)
    return seen


def reduce(events: list[Raw], counted: set[tuple[int, str]], most_slices: int = 400) -> Seen:
    """Rows whose host times sum to the outermost module's duration."""
    seen = Seen()
    host = sorted((e for e in events if not e.on_device), key=lambda e: (e.start_s, -e.duration_s))
    root = next((e for e in host if e.name == f"{MARK}0"), None)
    if root is None:
        return seen
    seen.whole_s = root.duration_s
    owners = _walk([e for e in host if e.thread == root.thread and e.start_s >= root.start_s
                    and e.end_s <= root.end_s + 1e-9], counted, seen)
    launches = {e.correlation: owners.get(id(e), (0, "")) for e in host if e.correlation}
    for e in events:
        if e.on_device:
            seen.device_events += 1
            at, _ = launches.get(e.correlation, (-1, ""))
            _add(seen, (at, e.name, "kernel", "gpu"), e.duration_s, 1)
    kept = heapq.nlargest(most_slices, events, key=lambda e: e.duration_s)
    for e in sorted(kept, key=lambda e: e.start_s):
        at, _ = owners.get(id(e), (-1, ""))
        seen.slices.append((e.name, e.start_s - root.start_s, e.duration_s,
                            "GPU" if e.on_device else "CPU", at))
    return seen


def _walk(host: Iterable[Raw], counted: set[tuple[int, str]], seen: Seen
          ) -> dict[int, tuple[int, str]]:
    """Self times, added to the operator that owns them; id(event) -> (module, operator)."""
    owners: dict[int, tuple[int, str]] = {}
    stack: list[_Open] = []

    def close(until: float) -> None:
        while stack and stack[-1].end_s <= until + 1e-10:
            done = stack.pop()
            done.call[0] += max(0.0, done.own_s)
            if done.begins:
                _add(seen, (done.module, done.owner, "op", "cpu"), done.call[0], 1)

    for event in host:
        close(event.start_s)
        # Clocks are read after the work: under load a range may seem to outlive the one around it.
        end_s = min(event.end_s, stack[-1].end_s) if stack else event.end_s
        opened = _Open(end_s, 0, PYTHON, end_s - event.start_s)
        if stack:
            outer = stack[-1]
            outer.own_s -= opened.own_s
            opened.module = outer.module
        if event.name.startswith(MARK):
            opened.module = int(event.name[len(MARK):])
        else:
            seen.host_events += 1
            if stack and stack[-1].inside:
                outer = stack[-1]
                opened.owner, opened.inside, opened.begins = outer.owner, True, False
                opened.call = outer.call
            else:
                opened.owner = event.name
                opened.inside = (opened.module, event.name) in counted
        owners[id(event)] = (opened.module, opened.owner)
        stack.append(opened)
    close(float("inf"))
    return owners


@dataclass(slots=True)
class _Open:
    """A range that has not ended. ``call``: seconds of the row's call it belongs to; ``begins``: it is
    that call; ``inside``: what it calls belongs to it."""

    end_s: float
    module: int
    owner: str
    own_s: float
    inside: bool = False
    begins: bool = True
    call: list[float] = field(default_factory=lambda: [0.0])


def _add(seen: Seen, key: tuple[int, str, str, str], seconds: float, calls: int) -> None:
    row = seen.rows.setdefault(key, Row())
    row.calls += calls
    row.total_s += seconds
    row.min_s, row.max_s = min(row.min_s, seconds), max(row.max_s, seconds)
