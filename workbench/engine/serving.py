"""The worker's main loop: take a command, execute it, answer with a result or one sentence."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import Any, Protocol

from workbench.engine.link import Link
from workbench.engine.wire import Command, Done, Shutdown
from workbench.errors import BY_NAME, WorkbenchError
from workbench.events import Event


class Executes(Protocol):
    """What the loop drives: the real one is :class:`workbench.engine.executor.Executor`."""

    def execute(self, command: Command, cancelled: Callable[[], bool]) -> dict[str, Any]: ...

    def close(self) -> None: ...


def serve(link: Link, make: Callable[[Callable[[Event], None]], Any], log: str = "") -> None:
    """Until Shutdown. ``make(emit)`` is called at once, so that heavy imports happen while the
    client still chooses settings."""
    executor: Executes | None = None
    failure = ""
    try:
        executor = make(link.emit)
    except Exception as error:
        traceback.print_exc()
        failure = f"the engine cannot work here ({error}); `workbench doctor` shows what is missing"
    while True:
        command = link.commands.get()
        if isinstance(command, Shutdown):
            break
        link.finish(run(link, executor, command, failure, log))
    if executor is not None:
        executor.close()
    link.close()


def run(link: Link, executor: Executes | None, command: Command, failure: str, log: str) -> Done:
    """One command to one Done; the traceback of a surprise goes to the log only."""
    try:
        link.begin(command)
        if executor is None:
            raise WorkbenchError(failure)
        return Done(ticket=command.ticket, result=executor.execute(command, link.cancelled))
    except WorkbenchError as error:
        name = type(error).__name__
        return Done(ticket=command.ticket, error=name if name in BY_NAME else "EngineError",
                    reason=str(error))
    except MemoryError:
        return Done(ticket=command.ticket, error="OutOfMemory", reason="the machine's memory is "
                    "full; use fewer bits, a smaller batch or another tier")
    except Exception as error:
        traceback.print_exc()
        sys.stderr.flush()
        where = f"; the details are in {log}" if log else ""
        return Done(ticket=command.ticket, error="EngineError",
                    reason=f"the engine failed inside: {type(error).__name__}: "
                           f"{str(error).splitlines()[0] if str(error) else 'no message'}{where}")
