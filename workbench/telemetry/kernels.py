"""When to capture: presets that bound size and overhead, and the windows' events.

``light`` looks at the prefill and then at single decode steps, spaced so that what the windows cost
stays below the budget; ``kernels`` looks more often and says what it costs; ``deep`` captures every
forward up to a cap, and says beforehand how large that will be. The overhead of every window is
measured and reported with it. Kernels that report themselves (``records``) need no profiler, so their
windows cost little and come much closer together.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from workbench.events import Event, Kernel, KernelWindow, Note, Slice
from workbench.telemetry.capture import Capture, Captured, Key, Row
from workbench.telemetry.classify import class_in
from workbench.telemetry.floors import Floors
from workbench.telemetry.modules import Modules
from workbench.telemetry.records import OpSource, reduce_records
from workbench.telemetry.selftest import dispatch_seconds


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
_GUESS_S, _GUESS_OF_OURS_S = 0.012, 0.001
#: Windows of kernels that report themselves cost so little that there may be this many times more.
_MORE_OF_OURS = 10
#: The row of what a module does between the operators that unpack its matrix.
UNPACKING = "between unpacking operators"
#: Bytes of one kernel row and one slice in a bundle's log, measured on runs of the bundled model.
ROW_BYTES, SLICE_BYTES = 330, 150


@dataclass(frozen=True)
class Schedule:
    """What the user set: see ``settings.telemetry``."""

    interval_s: float = 0.0
    window_steps: int = 1
    cap_bytes: float = 32e6


class KernelWatch:
    """Decides before each forward whether to capture it."""

    def __init__(self, preset: str, layers: list[Any], cuda: bool, floors: Floors,
                 emit: Callable[[Event], None], clock: Callable[[], float], expected: int, *,
                 model: Any = None, schedule: Schedule = Schedule(), source: OpSource | None = None,
                 plain: Callable[[str], float | None] = lambda phase: None) -> None:
        """``expected``: new tokens at most; a run too short for its budget has no decode window.

        ``model``: the module tree, for ranges of modules; ``source``: kernels that report themselves;
        ``plain``: what a forward of a phase takes without a capture, seconds, once that is known."""
        self.preset, self.name = PRESETS[preset], preset
        self._modules, self._cuda, self._floors = Modules(model, layers), cuda, floors
        self._emit, self._clock, self._expected = emit, clock, expected
        self._schedule, self._source, self._plain = schedule, source, plain
        self._bytes, self._next_s, self._left = 0.0, 0.0, 0
        self._told = self._refused = False
        self._recording = self._beside = False
        self._count = 0
        self._spent_s = self._cost_s = 0.0
        self._decoding_since: float | None = None
        self._steps = 0
        self._seen: set[str] = set()
        self._capture: Capture | None = None
        self._started_s = 0.0

    @property
    def capturing(self) -> bool:
        """Is a profiler open now? Then this forward's time is not its own."""
        return self._capture is not None

    def before(self, phase: str, step: int, rows: int) -> None:
        if phase not in ("prefill", "draft") and self._decoding_since is None:
            self._decoding_since = time.perf_counter()
        if not self._wanted(phase, rows):
            return
        if self._source is not None and phase in ("decode", "verify"):
            self._source.arm()
            self._recording, self._started_s = True, self._clock()
            return
        capture = Capture(self._modules, self._cuda, memory=phase not in self._seen)
        try:
            capture.start()
        except RuntimeError as error:  # somebody else's profiler is open on this thread
            self._refuse(phase, f"the profiler cannot start ({error}); close the other one")
            return
        if self._source is not None and phase == "prefill":
            self._source.arm()  # a short prompt may run through our kernels, a long one does not
            self._beside = True
        self._capture, self._started_s = capture, self._clock()

    def after(self, phase: str, step: int, rows: int) -> None:
        if phase not in ("prefill", "draft"):
            self._steps += 1
        if self._recording:
            self._read_records(phase, step, rows)
            return
        capture, self._capture = self._capture, None
        if capture is None:
            return
        ended_s = self._clock()
        capture.stop()
        captured = capture.read(self.preset.slices)
        if self._beside and self._source is not None:
            self._beside = False
            ours = reduce_records(self._source.drain(), self._source.names(), capture.wall_s,
                                  self.preset.slices)
            if ours.host_events:
                ours.peak_bytes = captured.peak_bytes
                captured = ours
        plain = self._plain(phase)
        slower = max(0.0, capture.wall_s - plain) if plain is not None else 0.0
        self._take(captured, phase, step, rows, ended_s, capture.overhead_s + slower, capture.reason)

    def _read_records(self, phase: str, step: int, rows: int) -> None:
        assert self._source is not None
        ended_s, began = self._clock(), time.perf_counter()
        self._recording = False
        captured = reduce_records(self._source.drain(), self._source.names(),
                                  ended_s - self._started_s, self.preset.slices)
        if not captured.host_events:
            self._source = None  # these forwards do not run our kernels: the profiler looks
            return
        self._take(captured, phase, step, rows, ended_s, time.perf_counter() - began, "")

    def _take(self, captured: Captured, phase: str, step: int, rows: int, ended_s: float,
              cost: float, reason: str) -> None:
        """Emit a window and count what it cost."""
        began = time.perf_counter()
        self._report(captured, phase, rows, step)
        cost += time.perf_counter() - began
        self._cost_s = max(cost, 0.5 * self._cost_s)
        self._bytes += ROW_BYTES * len(captured.rows) + SLICE_BYTES * len(captured.slices)
        self._emit(KernelWindow(
            t_s=self._clock(), window=self._count, start_s=self._started_s, end_s=ended_s,
            preset=self.name, steps=1, overhead_s=cost, device_events=captured.device_events,
            host_events=captured.host_events, reason=reason, phase=phase, rows=rows,
            wall_s=captured.wall_s, gap_s=captured.gap_s,
            dispatch_s=dispatch_seconds() if captured.dispatched else 0.0,
            peak_bytes=captured.peak_bytes))
        self._plan(captured)
        if phase != "prefill":
            self._spent_s += cost

    def _plan(self, captured: Captured) -> None:
        """After a window: when the next may come, and (deep) how large all of them will be."""
        if self._left > 0:
            self._left -= 1
        elif self._schedule.window_steps > 1:
            self._left = self._schedule.window_steps - 1
        if self._left == 0:
            self._next_s = self._clock() + self._schedule.interval_s
        if self.name == "deep" and not self._told:
            self._told = True
            each = ROW_BYTES * len(captured.rows) + SLICE_BYTES * len(captured.slices)
            windows = min(self.preset.windows, 1 + self._expected)
            self._emit(Note(t_s=self._clock(), text=(
                f"Deep capture: about {each * windows / 1e6:.1f} MB for {windows} forwards (estimated "
                f"from the first), at most {self._schedule.cap_bytes / 1e6:g} MB "
                "(telemetry.cap_mb).")))

    def abandon(self) -> None:
        """The forward raised: close the profiler, keep nothing."""
        if self._capture is not None:
            self._capture.stop()
            self._capture = None
        if (self._recording or self._beside) and self._source is not None:
            self._source.drain()
            self._recording = self._beside = False

    def _wanted(self, phase: str, rows: int) -> bool:
        if self._bytes >= self._schedule.cap_bytes:
            self._full()
            return False
        if self._count >= self.preset.windows * (1 if self._source is None else _MORE_OF_OURS):
            return False
        if self._refused and not (self._source is not None and phase in ("decode", "verify")):
            return False
        if self._left > 0 and phase != "prefill":
            return True  # the window goes on
        if self._clock() < self._next_s:
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
        guess = _GUESS_S if self._source is None else _GUESS_OF_OURS_S
        return self._spent_s + (self._cost_s or guess) <= self.preset.budget * since

    def _full(self) -> None:
        if self._bytes != float("inf"):
            self._bytes = float("inf")
            self._emit(Note(t_s=self._clock(), text=(
                f"Kernel capture stopped at {self._schedule.cap_bytes / 1e6:g} MB after {self._count} "
                "windows; raise telemetry.cap_mb for more."), level="warning"))

    def _refuse(self, phase: str, reason: str) -> None:
        """No more profiler in this run; the reason stands where the kernels would be."""
        now = self._clock()
        self._refused = True
        self._emit(KernelWindow(t_s=now, window=self._count, start_s=now, end_s=now,
                                preset=self.name, reason=reason))

    def _report(self, captured: Captured, phase: str, rows: int, step: int) -> None:
        """The rows and the slices; the window itself follows when its cost is known."""
        self._count += 1
        self._seen.add(phase)
        window, now = self._count, self._clock()
        linear = self._modules.linear
        classes = {key: class_in(key.name, key.module, linear) for key in captured.rows}
        _unpacking(captured, classes)
        floors = self._floors.table(classes, rows, captured)
        none: dict[str, Any] = {}
        for key, row in captured.rows.items():
            self._emit(Kernel(
                t_s=now, window=window, phase=phase, layer=key.layer, name=key.name, kind=key.kind,
                cls=classes[key], device=key.device, calls=row.calls, total_s=row.total_s,
                mean_s=row.total_s / row.calls, min_s=row.min_s, max_s=row.max_s, first_token=step,
                last_token=step, module=key.module, operator=key.operator,
                **floors.get(key, none)))
        for name, start_s, duration_s, track, layer in captured.slices:
            self._emit(Slice(t_s=now, window=window, name=name, start_s=self._started_s + start_s,
                             duration_s=duration_s, track=track, phase=phase, layer=layer))


def _unpacking(captured: Captured, classes: dict[Key, str]) -> None:
    """In a module that unpacks its matrix, the time between its operators is unpacking, too: the
    temporaries are given back there. A row of its own, taken out of the gap."""
    if captured.gap_s is None or captured.device_events:
        return
    for layer, module in {(k.layer, k.module) for k, cls in classes.items() if cls == "dequant"}:
        seconds = min(captured.gaps.get((layer, module), 0.0), captured.gap_s)
        if seconds > 0.0:
            key = Key(layer, module, UNPACKING, "op", "cpu")
            row = captured.rows[key] = Row()
            row.add(seconds)
            classes[key] = "dequant"
            captured.gap_s -= seconds
