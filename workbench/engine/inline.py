"""An engine in this process, for debugging and teaching: the client's interface, no other process.

A breakpoint inside a technique stops here. A crash of the model takes this process with it, and a
thread executes the commands, so Python code competes with the model for the interpreter.
"""

from __future__ import annotations

import itertools
import os
import queue
import threading
from typing import Any

import msgspec

from workbench.engine.client import Ticket
from workbench.engine.serving import run
from workbench.engine.wire import Command
from workbench.errors import BY_NAME, Cancelled, EngineDied, EngineError
from workbench.events import Event


class Inline:
    """See :class:`workbench.engine.client.Engine`."""

    def __init__(self) -> None:
        self.state, self.pid = "starting", os.getpid()
        self._lock = threading.Lock()
        self._events: list[Event] = []
        self._commands: queue.Queue[tuple[Command, Ticket] | None] = queue.Queue()
        self._numbers = itertools.count(1)
        self._cancelled: set[int] = set()
        self.running = 0
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="workbench-inline", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return not self._closed and self._thread.is_alive()

    def submit(self, command: Command) -> Ticket:
        if self._closed:
            raise EngineDied("the engine is closed; open the model again")
        ticket = Ticket(next(self._numbers))
        self._commands.put((msgspec.structs.replace(command, ticket=ticket.number), ticket))
        return ticket

    def cancel(self, ticket: Ticket | None = None) -> None:
        self._cancelled.add(ticket.number if ticket else self.running)

    def poll(self) -> list[Event]:
        with self._lock:
            events, self._events = self._events, []
        return events

    def close(self, timeout: float = 3.0) -> None:
        if not self._closed:
            self._closed = True
            self._cancelled.add(self.running)
            self._commands.put(None)
            self._thread.join(timeout)
            self.state = "dead"

    # -- the worker's side of the loop, as serving.run wants it -------------------------------

    def emit(self, event: Event) -> None:
        with self._lock:
            self._events.append(event)

    def begin(self, command: Command) -> None:
        self.running = command.ticket
        if self.cancelled():
            raise Cancelled("cancelled before it started")

    def cancelled(self) -> bool:
        return self.running in self._cancelled

    def _serve(self) -> None:
        from workbench.engine.executor import Executor

        executor: Any = Executor(self.emit)
        self.state = "ready"
        while (item := self._commands.get()) is not None:
            command, ticket = item
            done = run(self, executor, command, "", "")  # type: ignore[arg-type]
            self.running = 0
            kind = BY_NAME.get(done.error, EngineError)
            ticket.settle(done.result, kind(done.reason) if done.error else None)
        executor.close()
