"""What watches one run: kernel windows around forwards, power beside them.

The loop calls ``before`` and ``after`` around every forward, on the worker's main thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from workbench.events import Event, Progress
from workbench.machine import this_machine
from workbench.telemetry import power_idle
from workbench.telemetry.floors import Floors
from workbench.telemetry.kernels import KernelWatch, Schedule
from workbench.telemetry.power import PowerPoller, for_settings
from workbench.telemetry.power_load import Load
from workbench.telemetry.stacks import Stacks
from workbench.telemetry.stepclock import StepClock


class NoKernels:
    """The preset ``off``: nothing at all."""

    capturing = False

    def before(self, phase: str, step: int, rows: int) -> None:
        return None

    def after(self, phase: str, step: int, rows: int) -> None:
        return None

    def abandon(self) -> None:
        return None


class Monitor:
    """``start()`` before the run, ``stop()`` after it, whatever happened."""

    def __init__(self, settings: Any, model: Any, emit: Callable[[Event], None],
                 clock: Callable[[], float] | None = None,
                 idle: dict[tuple[str, str], Any] | None = None) -> None:
        """``clock``: seconds since the run began. ``idle``: idle power measured just before it."""
        zero = time.perf_counter()
        self._clock = clock or (lambda: time.perf_counter() - zero)
        self._emit = emit
        self._power = power_of(settings, emit, self._clock, idle) if settings.telemetry.power else None
        preset = settings.telemetry.preset
        self._steps = StepClock(emit, self._clock)
        self._kernels: Any = NoKernels() if preset == "off" else self._watch(preset, settings, model)
        self._inside = False
        self._stacks = (Stacks(emit, self._clock, lambda: self._inside)
                        if settings.telemetry.stacks and preset != "off" else None)
        self.before: Callable[[str, int, int], None] = self._before
        self.after: Callable[[str, int, int], None] = self._after
        if preset == "off":
            self.before, self.after = self._kernels.before, self._power_only

    def _watch(self, preset: str, settings: Any, model: Any) -> KernelWatch:
        from workbench.runtime.guard import layers_of

        cuda, chosen = model.device.type == "cuda", settings.telemetry
        return KernelWatch(
            preset, list(layers_of(model.loaded.model)), cuda,
            Floors.of_model(settings, model.shape, this_machine(), cuda, model), self._emit,
            self._clock, settings.limits.max_new_tokens, model=model.loaded.model,
            schedule=Schedule(chosen.interval_s, chosen.window_steps, chosen.cap_mb * 1e6),
            source=getattr(model, "op_records", None), plain=self._steps.middle)

    def _before(self, phase: str, step: int, rows: int) -> None:
        self._kernels.before(phase, step, rows)
        self._inside = True
        self._steps.before()

    def _after(self, phase: str, step: int, rows: int) -> None:
        """The power is read once more where the prompt ends, so that its joules end there too."""
        self._steps.after(phase, rows, self._kernels.capturing)
        self._inside = False
        self._kernels.after(phase, step, rows)
        if phase == "prefill" and self._power is not None:
            self._power.nudge()

    def _power_only(self, phase: str, step: int, rows: int) -> None:
        """The preset off: nothing of the forward is timed."""
        if phase == "prefill" and self._power is not None:
            self._power.nudge()

    def start(self) -> None:
        if self._power is not None:
            self._power.start()
        if self._stacks is not None:
            self._stacks.start()

    def stop(self) -> None:
        self._kernels.abandon()
        if self._stacks is not None:
            self._stacks.stop()
        self._steps.flush()
        if self._power is not None:
            self._power.stop()


def power_of(settings: Any, emit: Callable[[Event], None], clock: Callable[[], float],
             idle: dict[tuple[str, str], Any] | None = None) -> PowerPoller:
    """The poller of a run, with idle power as measured before it or, failing that, once before."""
    machine, load = this_machine(), Load()
    return PowerPoller(for_settings(settings, machine, load), emit, clock, load=load,
                       idle={**power_idle.load(machine), **(idle or {})})


def idle_before(settings: Any, emit: Callable[[Event], None], cancelled: Callable[[], bool]
                ) -> dict[tuple[str, str], Any]:
    """Idle power with the model loaded, when ``telemetry.idle_s`` asks for it; before the run's clock."""
    wanted = settings.telemetry
    if not wanted.power or wanted.idle_s <= 0:
        return {}
    seconds = max(1.5, wanted.idle_s)  # a shorter one gives no figure
    load = Load()
    found = [s for s in for_settings(settings, this_machine(), load) if s.status().available]
    if not found:
        return {}
    result = power_idle.measure(
        found, seconds, f"{seconds:g} s before the run, model loaded", cancelled,
        lambda share: emit(Progress(what="measuring idle power", done=share, total=1.0)), load)
    for sensor in found:
        sensor.close()
    return result
