"""Where a request's time goes inside the engine: stages that sum to the whole, by construction.

    with recording(clock) as spans:
        with span("tokenize"): ...
        with span("forward", model=True):
            with span("sampling"): ...      # taken out of the forward
    spans.stages()                           # and what no span covers, as "other"

A span costs about a microsecond and nothing is recorded where no recording is open on the thread, so
the calls stay in the code. After "Beyond Inference" (arXiv:2403.12981): what surrounds inference is
measured stage by stage, and what is not attributed is said.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

#: What no span covers.
OTHER = "other"


@dataclass
class Stage:
    """Own seconds (without the spans inside) and how often it ran."""

    seconds: float = 0.0
    calls: int = 0
    model: bool = False


class Spans:
    """One recording. Not thread-safe: it belongs to the thread that opened it."""

    def __init__(self) -> None:
        self._stages: dict[str, Stage] = {}
        self._open: list[str] = [OTHER]
        self._mark = self._began = time.perf_counter()
        self._ended: float | None = None

    def enter(self, name: str, model: bool = False) -> None:
        self._close_slice()
        self._open.append(name)
        stage = self._stages.setdefault(name, Stage(model=model))
        stage.calls += 1

    def leave(self) -> None:
        self._close_slice()
        if len(self._open) > 1:
            self._open.pop()

    def end(self) -> None:
        """Stop the clock; whatever a failure left open ends here."""
        if self._ended is None:
            self._close_slice()
            self._ended = self._mark

    def _close_slice(self) -> None:
        now = time.perf_counter()
        name = self._open[-1]
        stage = self._stages.get(name)
        if stage is None:
            stage = self._stages[name] = Stage(calls=1)
        stage.seconds += now - self._mark
        self._mark = now

    @property
    def seconds(self) -> float:
        """From the first moment to the last (or to now)."""
        return (self._ended or time.perf_counter()) - self._began

    def stages(self) -> dict[str, Stage]:
        """name -> stage; their seconds sum to :attr:`seconds` once ended."""
        return dict(self._stages)


class _Span:
    """Enters and leaves; one object per name would not be re-entrant, so one per use."""

    __slots__ = ("_model", "_name", "_spans")

    def __init__(self, spans: Spans, name: str, model: bool) -> None:
        self._spans, self._name, self._model = spans, name, model

    def __enter__(self) -> None:
        self._spans.enter(self._name, self._model)

    def __exit__(self, *_: object) -> None:
        self._spans.leave()


class _Nothing:
    """Where nobody records."""

    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


_NOTHING = _Nothing()
_local = threading.local()


def span(name: str, model: bool = False) -> AbstractContextManager[None]:
    """A stage of the recording that is open on this thread. ``model``: it is inference itself."""
    spans: Spans | None = getattr(_local, "spans", None)
    return _NOTHING if spans is None else _Span(spans, name, model)


@contextmanager
def recording() -> Iterator[Spans]:
    """Record this thread's spans; an inner recording hides an outer one until it ends."""
    before: Spans | None = getattr(_local, "spans", None)
    spans = _local.spans = Spans()
    try:
        yield spans
    finally:
        spans.end()
        _local.spans = before
