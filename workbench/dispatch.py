"""One engine, any number of sessions, one run at a time: the queue that keeps numbers undisturbed.

Jobs wait in first-come order. A single thread executes them: it starts the engine when there is
none (or when the last one died), submits the work, hands the engine's events to the job, and
finishes the run in the store. Sessions only enqueue, cancel and look.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from workbench.errors import Cancelled, EngineDied, WorkbenchError
from workbench.events import EngineState, Event, Note

if TYPE_CHECKING:
    from workbench.engine.client import Engine, Ticket

#: How often the running job's events are fetched. Views draw at 2-5 Hz; tokens should not wait.
_POLL_S = 0.02


@dataclass(eq=False)
class Job:
    """One piece of queued work. ``work(context)`` runs on the dispatcher's thread."""

    name: str
    work: Callable[[Context], Any]
    receive: Callable[[list[Event]], None]
    finished: Callable[[WorkbenchError | None], None]
    owner: str = ""
    cancelled: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)


class Context:
    """What a job may do while it runs."""

    def __init__(self, dispatcher: Dispatcher, job: Job) -> None:
        self._dispatcher, self._job = dispatcher, job

    @property
    def engine(self) -> Engine:
        return self._dispatcher._ready_engine(self._job)

    def call(self, message: Any) -> Any:
        """Submit one command and pump events until it is done. Raises what the engine raised."""
        self.check()
        engine = self.engine
        ticket: Ticket = engine.submit(message)
        asked = False
        while not ticket.done:
            self._pump(engine)
            if self._job.cancelled.is_set() and not asked:
                engine.cancel()
                asked = True
            ticket.wait_done(_POLL_S)
        self._pump(engine)
        return ticket.wait(0)

    def check(self) -> None:
        if self._job.cancelled.is_set():
            raise Cancelled("cancelled")

    def _pump(self, engine: Engine) -> None:
        events = engine.poll()
        if events:
            self._job.receive(events)


class Dispatcher:
    """The queue and the engine handle. Thread-safe; share one between sessions to share an engine."""

    def __init__(self, start_engine: Callable[[], Engine], waiting: Any = None) -> None:
        """``waiting`` orders the queue: a ``deque`` (first come, first served) or its like."""
        self._start_engine = start_engine
        self._engine: Engine | None = None
        self._jobs: deque[Job] = deque() if waiting is None else waiting
        self._current: Job | None = None
        self._wake = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._listeners: weakref.WeakSet[Any] = weakref.WeakSet()
        _open.add(self)

    # -- what sessions call -----------------------------------------------------------------

    def submit(self, job: Job) -> None:
        with self._wake:
            if self._closed:
                raise WorkbenchError("this session is closed; open the model again")
            self._jobs.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="workbench-dispatch",
                                                daemon=True)
                self._thread.start()
            self._wake.notify_all()

    def cancel(self, job: Job) -> None:
        """A queued job is dropped; a running one is asked to stop."""
        job.cancelled.set()
        with self._wake:
            queued = job in self._jobs
            if queued:
                self._jobs.remove(job)
        if queued:
            self._finish(job, Cancelled("cancelled before it started"))

    def position(self, job: Job) -> int | None:
        """0: running; n: n-th in the queue; None: neither."""
        with self._wake:
            if job is self._current:
                return 0
            return self._jobs.index(job) + 1 if job in self._jobs else None

    @property
    def busy(self) -> bool:
        """Whether a job runs or waits."""
        return self._current is not None or len(self._jobs) > 0

    def listen(self, listener: Any) -> None:
        """``listener.engine_events(events)`` hears what belongs to no run. Held weakly."""
        self._listeners.add(listener)

    @property
    def engine(self) -> Engine | None:
        """The live engine, or None."""
        engine = self._engine
        return engine if engine is not None and engine.alive else None

    def warm(self) -> None:
        """Start the engine now, so that the first run need not wait for it."""
        job = Job("start", lambda context: context.engine, self._broadcast, lambda error: None)
        with contextlib.suppress(WorkbenchError):
            self.submit(job)

    def close(self) -> None:
        """Cancel what runs, drop what waits, end the engine."""
        with self._wake:
            self._closed = True
            waiting, current = list(self._jobs), self._current
            self._jobs.clear()
            self._wake.notify_all()
        for job in waiting:
            self._finish(job, Cancelled("the session was closed"))
        if current is not None:
            current.cancelled.set()
            current.done.wait(5)
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    # -- the thread -------------------------------------------------------------------------

    def _loop(self) -> None:
        while True:
            with self._wake:
                while not self._jobs and not self._closed:
                    self._wake.wait(0.25)
                    if not self._jobs:
                        break
                if self._closed:
                    return
                job = self._current = self._jobs.popleft() if self._jobs else None
            if job is None:
                self._idle()
                continue
            error: WorkbenchError | None = None
            try:
                job.work(Context(self, job))
            except WorkbenchError as caught:
                error = caught
            except Exception as caught:  # a bug of ours must not end the queue
                error = WorkbenchError(f"{job.name} failed inside the workbench: {caught!r}")
            with self._wake:
                self._current = None
            self._finish(job, error)

    def _finish(self, job: Job, error: WorkbenchError | None) -> None:
        try:
            job.finished(error)
        finally:
            job.done.set()

    def _idle(self) -> None:
        """Between jobs: hear the engine's own events, notice its death."""
        engine = self._engine
        if engine is None:
            return
        events = engine.poll()
        if not engine.alive:
            engine.close()
            self._engine = None
            if not any(isinstance(e, EngineState) and e.state == "dead" for e in events):
                events = [*events, EngineState(state="dead", detail=DIED)]
        if events:
            self._broadcast(events)

    def _broadcast(self, events: list[Event]) -> None:
        for listener in list(self._listeners):
            listener.engine_events(events)

    def _ready_engine(self, job: Job) -> Engine:
        if self._engine is not None and not self._engine.alive:
            self._broadcast([Note(text="the engine had ended; starting a new one", level="info")])
            with contextlib.suppress(Exception):
                self._engine.close()
            self._engine = None
        if self._engine is None:
            self._broadcast([EngineState(state="starting")])
            self._engine = self._start_engine()
            deadline = time.monotonic() + 120
            while self._engine.state == "starting" and time.monotonic() < deadline:
                if job.cancelled.is_set():
                    raise Cancelled("cancelled while the engine was starting")
                if not self._engine.alive:
                    reason = self._engine.reason
                    self._engine.close()
                    self._engine = None
                    raise EngineDied(reason or "the engine ended while it was starting; `workbench "
                                     "doctor` shows what is missing")
                time.sleep(_POLL_S)
            self._broadcast([EngineState(state="ready")])
        return self._engine


DIED = "the engine process ended unexpectedly; finished runs are safe and the next run starts a new engine"

_open: weakref.WeakSet[Dispatcher] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for dispatcher in list(_open):
        with contextlib.suppress(Exception):
            dispatcher.close()
