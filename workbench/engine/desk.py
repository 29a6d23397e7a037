"""The worker's in-tray: commands that wait, the one that runs, and which of them were cancelled.

The main thread takes and finishes; the thread that hears the client puts and cancels.
"""

from __future__ import annotations

import threading
from collections import deque

from workbench.engine.wire import Command, Message


class Desk:
    """First come, first served. Safe from any thread."""

    def __init__(self) -> None:
        self._waiting: deque[Message] = deque()
        self._changed = threading.Condition()
        self._running: int | None = None
        self._stop = threading.Event()

    @property
    def busy(self) -> bool:
        """Something runs or is about to."""
        return self._running is not None or bool(self._waiting)

    def put(self, message: Message) -> None:
        with self._changed:
            self._waiting.append(message)
            self._changed.notify()

    def take(self) -> Message:
        """The next message; a command becomes the running one. Waits for it."""
        with self._changed:
            while not self._waiting:
                self._changed.wait()
            message = self._waiting.popleft()
            if isinstance(message, Command):
                self._running = message.ticket
                self._stop.clear()
            return message

    def finish(self) -> None:
        with self._changed:
            self._running = None

    def cancelled(self) -> bool:
        """Shall the running command stop? Costs well under a microsecond: asked at every forward."""
        return self._stop.is_set()

    def cancel(self, ticket: int) -> bool:
        """True when the command still waited and is dropped; a running one is asked to stop."""
        with self._changed:
            if ticket == self._running:
                self._stop.set()
                return False
            for message in self._waiting:
                if isinstance(message, Command) and message.ticket == ticket:
                    self._waiting.remove(message)
                    return True
            return False

    def clear(self) -> None:
        """Nobody wants any of it any more: forget what waits, stop what runs."""
        with self._changed:
            self._waiting.clear()
            if self._running is not None:
                self._stop.set()
