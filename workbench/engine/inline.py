"""An engine in this process, for debugging and teaching: the client's interface, no other process.

A breakpoint inside a technique stops here. A crash of the model takes this process with it, and a
thread executes the commands, so Python code competes with the model for the interpreter.
"""

from __future__ import annotations

import itertools
import os
import threading
from pathlib import Path

import msgspec

from workbench.engine.desk import Desk
from workbench.engine.serving import Make, serve
from workbench.engine.ticket import Ticket
from workbench.engine.wire import Command, Done, Shutdown
from workbench.engine.worker import make_executor
from workbench.errors import EngineDied
from workbench.events import EngineState, Event


class Inline:
    """See :class:`workbench.engine.client.Engine`. To :func:`serve`, it is the link as well."""

    reason = ""
    log: Path | None = None

    def __init__(self, make: Make = make_executor) -> None:
        self.desk = Desk()
        self.state, self.pid = "starting", os.getpid()
        self._lock = threading.Lock()
        self._events: list[Event] = []
        self._tickets: dict[int, Ticket] = {}
        self._numbers = itertools.count(1)
        self._closed = False
        self._thread = threading.Thread(target=serve, args=(self, make), name="workbench-inline",
                                        daemon=True)
        self._thread.start()

    # -- the client's half ------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        return not self._closed and self._thread.is_alive()

    def submit(self, command: Command) -> Ticket:
        if not self.alive:
            raise EngineDied("the engine is closed; open the model again")
        ticket = Ticket(next(self._numbers))
        with self._lock:
            self._tickets[ticket.number] = ticket
        self.desk.put(msgspec.structs.replace(command, ticket=ticket.number))
        return ticket

    def cancel(self, ticket: Ticket | None = None) -> None:
        with self._lock:
            number = ticket.number if ticket is not None else min(self._tickets, default=0)
        if self.desk.cancel(number):
            self._settle(Done(ticket=number, error="Cancelled",
                              reason="cancelled before it started"))

    def poll(self) -> list[Event]:
        with self._lock:
            events, self._events = self._events, []
        return events

    def close(self, timeout: float = 3.0) -> None:
        if self._closed:
            return
        self._closed = True
        self.desk.clear()
        self.desk.put(Shutdown())
        self._thread.join(timeout)
        self.state = "dead"
        for ticket in list(self._tickets.values()):
            ticket.settle({}, EngineDied("the engine was closed"))

    def __enter__(self) -> Inline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the worker's half, called by serve ---------------------------------------------------

    def emit(self, event: Event) -> None:
        with self._lock:
            self._events.append(event)
        if isinstance(event, EngineState):
            self.state = event.state

    def finish(self, done: Done) -> None:
        self.desk.finish()
        self._settle(done)

    def _settle(self, done: Done) -> None:
        with self._lock:
            ticket = self._tickets.pop(done.ticket, None)
        if ticket is not None:
            ticket.settle_with(done)
