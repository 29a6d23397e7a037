"""How long the user of one request has waited, and for what, as seen from the client's clock.

Stages follow one another, so they sum to the wait. What the engine was busy with it reports itself;
the rest of the call is the wire: messages there and back, and the engine's inbox. No clock of the
other side is read, so it is right for an engine on another machine too.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from workbench.events import Event, Overhead, RunEnded

#: The call less what the engine reports of itself.
WIRE = "wire and inbox"


class Waiting:
    """Starts when it is made. Used by the thread that asks, then by the one that works."""

    def __init__(self) -> None:
        self._mark = time.perf_counter()
        self._stages: list[Overhead] = []
        self._engine_s = 0.0
        self._heard = False
        self._last: float | None = None

    def stage(self, what: str) -> None:
        """What ended now began where the stage before it ended."""
        now = time.perf_counter()
        self._stages.append(Overhead(what=what, where="client", seconds=now - self._mark))
        self._mark = now

    def hear(self, events: Sequence[Event]) -> None:
        """Takes the engine's own stages from its events, and the moment of the last one."""
        for e in events:
            if isinstance(e, RunEnded):
                self._last = time.perf_counter()
            if isinstance(e, Overhead) and e.where == "engine":
                self._heard = True
                self._engine_s += e.seconds

    def ended(self) -> list[Event]:
        """The client's stages and the wire, once the engine's last event is here."""
        # The user has everything with the run's last event; the command's result comes a little later.
        call_s = (self._last or time.perf_counter()) - self._mark
        if self._heard:
            last = Overhead(what=WIRE, where="wire", seconds=max(0.0, call_s - self._engine_s))
        else:
            last = Overhead(what="the engine ended without a report", where="engine", seconds=call_s)
        return [*self._stages, last]
