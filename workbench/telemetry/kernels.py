"""When to capture: presets that bound size and overhead, and the windows' events.

``light`` looks at the prefill and then at single decode steps, spaced so that what the windows cost
stays below the budget; ``kernels`` looks more often and says what it costs; ``deep`` captures every
forward up to a cap. The overhead of every window is measured and reported with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from workbench.events import Event, Kernel, KernelWindow, Slice
from workbench.telemetry.capture import Capture, Captured
from workbench.telemetry.classify import kernel_class
from workbench.telemetry.floors import Floors


@dataclass(frozen=True)
class Preset:
    """``budget``: share of the time since the first token that windows may cost; ``slices`` and
    ``windows``: caps per window and per run; ``first``: the first decode step looked at;
    ``prefill_rows``: the shortest prefill looked at."""

    budget: float
    slices: int
    windows: int
    first: int
    prefill_rows: int = 0


PRESETS = {"light": Preset(0.015, 300, 60, 4, 512), "kernels": Preset(0.10, 800, 200, 2),
           "deep": Preset(float("inf"), 1500, 64, 0)}
#: What a window is assumed to cost before the first was measured, seconds.
_GUESS_S = 0.012


class KernelWatch:
    """Decides before each forward whether to capture it."""

    def __init__(self, preset: str, layers: list[Any], cuda: bool, floors: Floors,
                 emit: Callable[[Event], None], clock: Callable[[], float], expected: int) -> None:
        """``expected``: new tokens at most; a run too short for its budget has no decode window."""
        self.preset, self.name = PRESETS[preset], preset
        self._layers, self._cuda, self._floors = layers, cuda, floors
        self._emit, self._clock, self._expected = emit, clock, expected
        self._count = 0
        self._spent_s = self._cost_s = 0.0
        self._decoding_since: float | None = None
        self._steps = 0
        self._seen: set[str] = set()
        self._capture: Capture | None = None
        self._started_s = 0.0

    def before(self, phase: str, step: int, rows: int) -> None:
        if phase not in ("prefill", "draft") and self._decoding_since is None:
            self._decoding_since = time.perf_counter()
        if not self._wanted(phase, rows):
            return
        capture = Capture(self._layers, self._cuda)
        try:
            capture.start()
        except RuntimeError as error:  # somebody else's profiler is open on this thread
            self._refuse(phase, f"the profiler cannot start ({error}); close the other one")
            return
        self._capture, self._started_s = capture, self._clock()

    def after(self, phase: str, step: int, rows: int) -> None:
        if phase not in ("prefill", "draft"):
            self._steps += 1
        capture, self._capture = self._capture, None
        if capture is None:
            return
        capture.stop()
        ended_s = self._clock()
        captured = capture.read(self.preset.slices)
        began = time.perf_counter()
        self._report(captured, phase, rows, step)
        cost = capture.overhead_s + time.perf_counter() - began
        self._cost_s = max(cost, 0.5 * self._cost_s)
        self._emit(KernelWindow(
            t_s=self._clock(), window=self._count, start_s=self._started_s, end_s=ended_s,
            preset=self.name, steps=1, overhead_s=cost, device_events=captured.device_events,
            host_events=captured.host_events, reason=capture.reason))
        if phase != "prefill":
            self._spent_s += cost

    def abandon(self) -> None:
        """The forward raised: close the profiler, keep nothing."""
        if self._capture is not None:
            self._capture.stop()
            self._capture = None

    def _wanted(self, phase: str, rows: int) -> bool:
        if self._count >= self.preset.windows:
            return False
        if self.preset.budget == float("inf"):
            return True
        if phase == "prefill":
            # It costs time to first token, once: light does it where the prefill is long enough.
            return phase not in self._seen and rows >= self.preset.prefill_rows
        if self._steps < self.preset.first:
            return False
        if phase == "draft" and not self._seen & {"verify", "decode"}:
            return False  # a short run pays for one window: the target's, where most of its time goes
        since = time.perf_counter() - (self._decoding_since or time.perf_counter())
        if phase not in self._seen:
            # What the whole run will take at this pace: a first look that the rest of it pays for.
            # A verification emits about two tokens, so that a run has about half as many of them.
            steps = self._expected / (2 if phase == "verify" else 1)
            since *= max(1.0, steps / max(1, self._steps))
        return self._spent_s + (self._cost_s or _GUESS_S) <= self.preset.budget * since

    def _refuse(self, phase: str, reason: str) -> None:
        """No more captures in this run; the reason stands where the kernels would be."""
        now = self._clock()
        self._count = self.preset.windows
        self._emit(KernelWindow(t_s=now, window=self._count, start_s=now, end_s=now,
                                preset=self.name, reason=reason))

    def _report(self, captured: Captured, phase: str, rows: int, step: int) -> None:
        """The rows and the slices; the window itself follows when its cost is known."""
        self._count += 1
        self._seen.add(phase)
        window, now = self._count, self._clock()
        for (layer, name, kind, device), row in captured.rows.items():
            cls = kernel_class(name)
            self._emit(Kernel(
                t_s=now, window=window, phase=phase, layer=layer, name=name, kind=kind, cls=cls,
                device=device, calls=row.calls, total_s=row.total_s, mean_s=row.total_s / row.calls,
                min_s=row.min_s, max_s=row.max_s, first_token=step, last_token=step,
                **self._floors.of(name, cls, layer, kind, rows, captured)))
        for name, start_s, duration_s, track, layer in captured.slices:
            self._emit(Slice(t_s=now, window=window, name=name, start_s=self._started_s + start_s,
                             duration_s=duration_s, track=track, phase=phase, layer=layer))
