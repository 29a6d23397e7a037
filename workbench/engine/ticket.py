"""The promise of one command's result."""

from __future__ import annotations

import threading
from typing import Any

from workbench.engine.wire import Done
from workbench.errors import BY_NAME, EngineError, WorkbenchError


class Ticket:
    """What ``submit`` returns. Safe from any thread; settled once."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._done = threading.Event()
        self._result: dict[str, Any] = {}
        self._error: WorkbenchError | None = None

    @property
    def done(self) -> bool:
        return self._done.is_set()

    def wait_done(self, timeout: float | None = None) -> bool:
        """Wait without raising; True when the command has ended."""
        return self._done.wait(timeout)

    def wait(self, timeout: float | None = None) -> dict[str, Any]:
        """The result. Raises what ended the command; EngineError when it still runs."""
        if not self._done.wait(timeout):
            raise EngineError("the engine has not finished this command yet")
        if self._error is not None:
            raise self._error
        return self._result

    def settle(self, result: dict[str, Any], error: WorkbenchError | None = None) -> None:
        """Only the first call counts."""
        if not self._done.is_set():
            self._result, self._error = result, error
            self._done.set()

    def settle_with(self, done: Done) -> None:
        """The worker's answer; an error comes back as the class it was there."""
        kind = BY_NAME.get(done.error, EngineError)
        self.settle(done.result, kind(done.reason) if done.error else None)
