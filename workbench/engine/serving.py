"""The worker's main loop: take a command, execute it, answer with a result or one sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from workbench.engine import faults
from workbench.engine.desk import Desk
from workbench.engine.wire import Command, Done, Shutdown
from workbench.errors import EngineError
from workbench.events import EngineState, Event


class Executes(Protocol):
    """What the loop drives: the real one is :class:`workbench.engine.executor.Executor`."""

    def execute(self, command: Command, cancelled: Callable[[], bool]) -> dict[str, Any]: ...

    def close(self) -> None: ...


Make = Callable[[Callable[[Event], None]], Executes]


class Speaks(Protocol):
    """The way to the client: a socket's :class:`~workbench.engine.link.Link`, or none (inline)."""

    desk: Desk

    def emit(self, event: Event) -> None: ...

    def finish(self, done: Done) -> None: ...

    def close(self) -> None: ...


def serve(link: Speaks, make: Make, log: str = "") -> None:
    """Until Shutdown. ``make(emit)`` is called at once, so that heavy imports happen while the
    client still chooses settings."""
    executor = prepared(link, make, log)
    link.emit(EngineState(state="ready"))
    while not isinstance(command := link.desk.take(), Shutdown):
        assert isinstance(command, Command)
        try:
            done = Done(ticket=command.ticket, result=executor.execute(command, link.desk.cancelled))
        except Exception as error:
            done = faults.done(command.ticket, error, log)
        link.finish(done)
    executor.close()
    link.close()


def prepared(link: Speaks, make: Make, log: str) -> Executes:
    """The executor, or one that answers every command with why there is none."""
    try:
        return make(link.emit)
    except Exception as error:
        return Broken(faults.explain(error, log)[1])


class Broken:
    """An engine that could not get ready (torch missing, a driver that does not fit)."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def execute(self, command: Command, cancelled: Callable[[], bool]) -> dict[str, Any]:
        raise EngineError(f"the engine cannot work here: {self._reason}; `workbench doctor` shows "
                          "what is missing")

    def close(self) -> None:
        return
