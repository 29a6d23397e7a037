"""Carries out commands with the real runtime, on the worker's main thread.

A loaded model stays until another one is needed: what makes a model (source, weights, tiers,
device, threads) is compared, everything else is given with each run.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from workbench.engine.wire import Command, Evaluate, Generate, Load, MeasureCeilings, Unload
from workbench.errors import Cancelled, WorkbenchError
from workbench.events import EngineState, Event, RunEnded
from workbench.settings import Settings

Emit = Callable[[Event], None]


class Executor:
    """Owns at most one model. Importing torch here keeps the first run from waiting for it."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._model: Any = None
        self._made_of: tuple[Any, ...] = ()
        import transformers  # noqa: F401

        import workbench.runtime.model  # noqa: F401
        emit(EngineState(state="ready"))

    def execute(self, command: Command, cancelled: Callable[[], bool]) -> dict[str, Any]:
        """Raises WorkbenchError subclasses with one sentence."""
        if isinstance(command, Load):
            self._load(Settings.from_dict(command.settings), self._emit, cancelled)
            return self._facts()
        if isinstance(command, Generate):
            return self._generate(command, cancelled)
        if isinstance(command, Evaluate):
            return self._evaluate(command, cancelled)
        if isinstance(command, MeasureCeilings):
            from workbench.telemetry import ceilings

            return {"ceilings": ceilings.measure(self._emit, cancelled, full=command.full)}
        if isinstance(command, Unload):
            self.unload()
            self._emit(EngineState(state="ready", detail="unloaded"))
            return {}
        raise WorkbenchError(f"this engine does not know the command {type(command).__name__}")

    # -- the model --------------------------------------------------------------------------

    def _load(self, settings: Settings, emit: Emit, cancelled: Callable[[], bool]) -> Any:
        wanted = (settings.model, settings.weights, settings.tiers, settings.compute,
                  settings.seed if settings.model.weights == "random" else 0)
        if self._model is not None and self._made_of == wanted:
            return self._model
        from workbench.runtime.model import load

        self.unload()
        emit(EngineState(state="loading"))
        self._model = load(settings, emit, cancelled)
        self._made_of = wanted
        return self._model

    def unload(self) -> None:
        """Free the model and give its pages back to the operating system."""
        if self._model is None:
            return
        self._model.close()
        self._model, self._made_of = None, ()
        gc.collect()
        torch = sys.modules["torch"]
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        give_back()

    def close(self) -> None:
        self.unload()

    def _facts(self) -> dict[str, Any]:
        return {"parameters": self._model.shape.parameters, "device": str(self._model.device)}

    # -- runs -------------------------------------------------------------------------------

    def _generate(self, command: Generate, cancelled: Callable[[], bool]) -> dict[str, Any]:
        settings = Settings.from_dict(command.settings)
        began = time.perf_counter()
        emit = self._stamped(command.run_id, began)
        tokens = 0
        try:
            model = self._load(settings, emit, cancelled)
            began_run = time.perf_counter()
            emit.begin(began_run)
            emit(EngineState(state="running"))
            monitor = self._monitor(settings, model, emit)
            monitor.start()
            try:
                output = model.generate(command.prompts, settings, emit, cancelled, monitor,
                                        clock=lambda: time.perf_counter() - began_run)
            finally:
                monitor.stop()
            tokens = sum(map(len, output.tokens))
            emit(RunEnded(status="done", new_tokens=tokens))
            return {"new_tokens": tokens, "ended": output.ended}
        except Cancelled as error:
            emit(RunEnded(status="cancelled", reason=str(error)))
            raise
        except WorkbenchError as error:
            emit(RunEnded(status="failed", reason=str(error)))
            raise
        finally:
            self._emit(EngineState(state="ready"))

    def _evaluate(self, command: Evaluate, cancelled: Callable[[], bool]) -> dict[str, Any]:
        from workbench.quality import evaluate

        settings = Settings.from_dict(command.settings)
        emit = self._stamped(command.run_id, time.perf_counter())
        try:
            model = self._load(settings, emit, cancelled)
            emit(EngineState(state="evaluating"))
            summary = evaluate(model, command.texts, emit, cancelled, settings=settings,
                               reference=Path(command.reference) if command.reference else None,
                               save=Path(command.save) if command.save else None)
            return {"quality": msgspec.to_builtins(summary)}
        finally:
            self._emit(EngineState(state="ready"))

    def _monitor(self, settings: Settings, model: Any, emit: Emit) -> Any:
        try:
            from workbench.telemetry import Monitor
        except ImportError:
            from workbench.runtime.loop import NoMonitor
            NoMonitor.start=NoMonitor.stop=lambda self:None
            return NoMonitor()
        return Monitor(settings, model, emit)

    def _stamped(self, run_id: str, began: float) -> Stamped:
        return Stamped(self._emit, run_id, began)


class Stamped:
    """Puts the run's id, and the run's clock where the sender left it out, on every event."""

    def __init__(self, emit: Emit, run_id: str, began: float) -> None:
        self._emit, self._run, self._began = emit, run_id, began

    def begin(self, began: float) -> None:
        self._began = began

    def __call__(self, event: Event) -> None:
        now = event.t_s or time.perf_counter() - self._began
        self._emit(msgspec.structs.replace(event, run=self._run, t_s=now))


def give_back() -> None:
    """Ask the C library to return free pages; without it the process would keep them."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return
