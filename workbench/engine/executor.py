"""Carries out commands with the real runtime, on the worker's main thread.

A loaded model stays until another one is needed: what makes a model (source, weights, tiers,
device, threads) is compared, everything else is given with each run.
"""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from workbench.engine import faults, footprint
from workbench.engine.wire import Command, Evaluate, Generate, Load, MeasureCeilings, Unload
from workbench.errors import Cancelled, OutOfMemory, WorkbenchError
from workbench.events import EngineState, Event, Memory, Note, Overhead, RunEnded
from workbench.runtime.spans import Spans, recording, span
from workbench.settings import Settings
from workbench.units import format_bytes

Emit = Callable[[Event], None]
Stop = Callable[[], bool]

#: What opening a Llama imports on the way; done while the client still chooses its settings.
_WARM = ("torch", "transformers", "transformers.models.llama.modeling_llama",
         "transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto",
         "transformers.tokenization_utils_tokenizers", "workbench.runtime.model",
         "workbench.telemetry.monitor", "workbench.quality")


class Executor:
    """Owns at most one model."""

    def __init__(self, emit: Emit) -> None:
        """Imports torch and what else the first run needs."""
        self._emit = emit
        self._model: Any = None
        self._made_of: tuple[Any, ...] = ()
        for name in _WARM:
            importlib.import_module(name)
        import torch

        from workbench.telemetry.postmortem import held

        self._threads = torch.get_num_threads()
        self._test_capture()
        self._empty = footprint.read()
        self._bare = held()

    def _test_capture(self) -> None:
        """The first kernel capture of a process sets the profiler up: better now than in a run."""
        from workbench.telemetry.selftest import self_test

        reason = self_test()
        if reason:
            self._emit(Note(text=reason, level="warning"))

    def execute(self, command: Command, cancelled: Stop) -> dict[str, Any]:
        """Raises WorkbenchError subclasses with one sentence. After OutOfMemory nothing is loaded."""
        try:
            return self._execute(command, cancelled)
        except Exception as error:
            if isinstance(error, OutOfMemory) or faults.is_out_of_memory(error):
                error.__traceback__ = None  # its frames hold tensors
                self._forget()
            raise

    def _execute(self, command: Command, cancelled: Stop) -> dict[str, Any]:
        if isinstance(command, Load):
            self._load(Settings.from_dict(command.settings), self._emit, cancelled)
            self._emit(EngineState(state="ready"))
            return {"parameters": self._model.shape.parameters, "device": str(self._model.device)}
        if isinstance(command, Generate):
            return self._generate(command, cancelled)
        if isinstance(command, Evaluate):
            return self._evaluate(command, cancelled)
        if isinstance(command, MeasureCeilings):
            from workbench.telemetry import ceilings

            return {"ceilings": ceilings.measure(self._emit, cancelled, full=command.full)}
        if isinstance(command, Unload):
            return self._unload()
        raise WorkbenchError(f"this engine does not know the command {type(command).__name__}")

    # -- the model --------------------------------------------------------------------------

    def _load(self, settings: Settings, emit: Emit, cancelled: Stop) -> Any:
        """The model for these settings: the one at hand when nothing that makes it differs."""
        from workbench import backends

        wanted = backends.made_of(settings)
        if self._model is not None and self._made_of == wanted:
            return self._model
        import torch

        self._forget()
        torch.set_num_threads(settings.compute.threads or self._threads)
        emit(EngineState(state="loading"))
        try:
            self._model = backends.open_model(settings, emit, cancelled)
        except BaseException as error:
            _post_mortem(error, emit, "loading the model", self._bare)
            footprint.give_back()
            self._emit(EngineState(state="ready"))
            raise
        self._made_of = wanted
        return self._model

    def _forget(self) -> None:
        model, self._model, self._made_of = self._model, None, ()
        if model is not None:
            model.close()
        del model
        footprint.give_back()

    def _unload(self) -> dict[str, Any]:
        """Free the model and report what the operating system and the device say about it."""
        before = footprint.read()
        self._forget()
        after = footprint.read()
        for tier in ("ram", "gpu"):
            if before[tier]:
                self._emit(Memory(tier=tier, total_bytes=after[tier], source="after unloading"))
        freed = {tier: max(0, before[tier] - after[tier]) for tier in after}
        detail = ", ".join(f"{format_bytes(n)} of {tier.upper()}" for tier, n in freed.items() if n)
        self._emit(EngineState(state="unloaded", detail=f"gave back {detail or 'nothing'}"))
        return {"before_bytes": before, "after_bytes": after, "empty_bytes": self._empty,
                "freed_bytes": freed}

    def close(self) -> None:
        self._forget()

    # -- runs -------------------------------------------------------------------------------

    def _generate(self, command: Generate, cancelled: Stop) -> dict[str, Any]:
        emit = Stamped(self._emit, command.run_id)
        tokens = 0

        def counted(event: Event) -> None:
            nonlocal tokens
            tokens += event.__class__.__name__ == "Token"
            emit(event)

        try:
            with recording() as spans:
                try:
                    settings = Settings.from_dict(command.settings)
                    with span("load"):
                        model = self._load(settings, emit, cancelled)
                        model.prepare(settings, emit, cancelled)  # before the run's clock starts
                    output = self._run(model, settings, command.prompts, counted, emit, cancelled)
                finally:
                    spans.end()
                    for stage in overheads(spans):
                        emit(stage)
        except Exception as error:
            status = "cancelled" if isinstance(error, Cancelled) else "failed"
            reason = str(error) if isinstance(error, WorkbenchError) else faults.brief(error)
            if self._model is not None:  # else loading failed and has said so
                _post_mortem(error, emit, "generating" if tokens else "reading the prompt", self._bare)
            emit(RunEnded(status=status, reason=reason, new_tokens=tokens))
            raise
        else:
            emit(RunEnded(status="done", new_tokens=tokens))
            return {"new_tokens": tokens, "ended": output.ended}
        finally:
            self._emit(EngineState(state="ready"))

    def _run(self, model: Any, settings: Settings, prompts: list[str], emit: Emit, stamp: Stamped,
             cancelled: Stop) -> Any:
        """Model work between the monitor's start and stop, all on this thread."""
        from workbench import backends
        from workbench.telemetry import Monitor
        from workbench.telemetry.monitor import idle_before
        from workbench.telemetry.neighbours import Neighbours

        with span("idle power"):
            idle = idle_before(settings, emit, cancelled)
        began = stamp.begin()
        emit(EngineState(state="running"))

        def clock() -> float:
            return time.perf_counter() - began

        with span("telemetry"):
            monitor = Monitor(backends.watched(settings), model, emit, clock, idle)
            neighbours = Neighbours(emit, clock)
            neighbours.start()
            monitor.start()
        try:
            return model.generate(prompts, settings, emit, cancelled, monitor, clock=clock)
        finally:
            with span("telemetry"):
                monitor.stop()
                neighbours.stop()

    def _evaluate(self, command: Evaluate, cancelled: Stop) -> dict[str, Any]:
        from workbench.quality import evaluate

        settings = Settings.from_dict(command.settings)
        emit = Stamped(self._emit, command.run_id)
        try:
            model = self._load(settings, emit, cancelled)
            emit.begin()
            emit(EngineState(state="evaluating"))
            summary = evaluate(model, command.texts, emit, cancelled, settings=settings,
                               reference=Path(command.reference) if command.reference else None,
                               save=_writable(command.save))
            return {"quality": msgspec.to_builtins(summary)}
        finally:
            self._emit(EngineState(state="ready"))


class Stamped:
    """Puts the run's id on every event, and the run's clock where the sender left it out.

    Before :meth:`begin` (while the model loads) the run's clock stands at zero."""

    def __init__(self, emit: Emit, run_id: str) -> None:
        self._emit, self._run, self._began = emit, run_id, 0.0

    def begin(self) -> float:
        """The run's zero on ``time.perf_counter``."""
        self._began = time.perf_counter()
        return self._began

    def __call__(self, event: Event) -> None:
        with span("events"):
            now = event.t_s or (time.perf_counter() - self._began if self._began else 0.0)
            self._emit(msgspec.structs.replace(event, run=self._run, t_s=now))


def overheads(spans: Spans) -> list[Overhead]:
    """The stages of one command, as events; their seconds sum to the recording's."""
    return [Overhead(what=name, where="engine", seconds=s.seconds, calls=s.calls, model=s.model)
            for name, s in spans.stages().items()]


def _post_mortem(error: BaseException, emit: Emit, doing: str, bare: dict[str, int]) -> None:
    """What was held when memory ran out; nothing for other errors. Never raises in the way of one."""
    if not (isinstance(error, OutOfMemory) or faults.is_out_of_memory(error)):
        return
    with contextlib.suppress(Exception):
        from workbench.telemetry.postmortem import report

        for record in report(error, doing, bare):
            emit(record)


def _writable(save: str | None) -> Path | None:
    """The folder may be on another machine than the client's, so it is made here."""
    if not save:
        return None
    path = Path(save)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
