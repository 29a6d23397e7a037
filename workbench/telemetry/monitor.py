"""What watches one run: kernel windows around forwards, power beside them.

The loop calls ``before`` and ``after`` around every forward, on the worker's main thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from workbench.events import Event
from workbench.machine import this_machine
from workbench.telemetry.floors import Floors
from workbench.telemetry.kernels import KernelWatch
from workbench.telemetry.power import PowerPoller, sensors


class NoKernels:
    """The preset ``off``: nothing at all."""

    def before(self, phase: str, step: int, rows: int) -> None:
        return None

    def after(self, phase: str, step: int, rows: int) -> None:
        return None

    def abandon(self) -> None:
        return None


class Monitor:
    """``start()`` before the run, ``stop()`` after it, whatever happened."""

    def __init__(self, settings: Any, model: Any, emit: Callable[[Event], None],
                 clock: Callable[[], float] | None = None) -> None:
        """``clock``: seconds since the run began."""
        zero = time.perf_counter()
        self._clock = clock or (lambda: time.perf_counter() - zero)
        self._emit = emit
        self._power = PowerPoller(sensors(this_machine()), emit, self._clock) \
            if settings.telemetry.power else None
        preset = settings.telemetry.preset
        self._kernels: Any = NoKernels() if preset == "off" else self._watch(preset, settings, model)
        self.before, self.after = self._kernels.before, self._kernels.after

    def _watch(self, preset: str, settings: Any, model: Any) -> KernelWatch:
        from workbench.runtime.guard import layers_of

        cuda = model.device.type == "cuda"
        return KernelWatch(
            preset, list(layers_of(model.loaded.model)), cuda,
            Floors.of_model(settings, model.shape, this_machine(), cuda), self._emit, self._clock,
            settings.limits.max_new_tokens)

    def start(self) -> None:
        if self._power is not None:
            self._power.start()

    def stop(self) -> None:
        self._kernels.abandon()
        if self._power is not None:
            self._power.stop()
