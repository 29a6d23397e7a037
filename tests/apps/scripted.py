"""An engine that plays a script: the client's interface, no process, no model.

For tests of queues, isolation and drawing, where what is computed does not matter; the browser test
drives the real engine.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

from workbench import events as ev
from workbench.errors import Cancelled, EngineDied, WorkbenchError

TEXT = ("def add(a, b):\n    return a + b  # <script>window.owned=1</script> "
        "<img src=x onerror='window.owned=1'> & so on\n")


class Ticket:
    """What ``submit`` returns."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.error: WorkbenchError | None = None

    @property
    def done(self) -> bool:
        return self._event.is_set()

    def wait_done(self, timeout: float) -> bool:
        return self._event.wait(timeout)

    def wait(self, timeout: float | None = None) -> None:
        self._event.wait(timeout)
        if self.error is not None:
            raise self.error

    def finish(self, error: WorkbenchError | None = None) -> None:
        self.error = error
        self._event.set()


class ScriptedEngine:
    """``tokens`` per run, ``gap_s`` between them; records what was asked in ``asked``."""

    def __init__(self, tokens: int = 24, gap_s: float = 0.005) -> None:
        self.tokens, self.gap_s = tokens, gap_s
        self.alive, self.state, self.pid = True, "ready", 0
        self.asked: list[Any] = []
        self._events: deque[ev.Event] = deque()
        self._cancel = threading.Event()

    def submit(self, message: Any) -> Ticket:
        ticket = Ticket()
        self.asked.append(message)
        self._cancel.clear()
        if type(message).__name__ == "Generate":
            threading.Thread(target=self._play, args=(message, ticket), daemon=True).start()
        else:
            ticket.finish()
        return ticket

    def cancel(self) -> None:
        self._cancel.set()

    def poll(self) -> list[ev.Event]:
        found = []
        while self._events:
            found.append(self._events.popleft())
        return found

    def die(self) -> None:
        self.alive, self.state = False, "dead"

    def close(self) -> None:
        self.alive = False

    def _play(self, message: Any, ticket: Ticket) -> None:
        run, start = message.run_id, time.monotonic()
        self._events.append(ev.RunStarted(run=run, prompt_tokens=7))
        self._events.append(ev.Effective(run=run, path="weights", requested="bf16",
                                         effective="bf16 <b>", honoured=True))
        words = [w + " " for w in TEXT.split(" ")]
        for i in range(self.tokens):
            if self._cancel.wait(self.gap_s):
                ticket.finish(Cancelled("cancelled"))
                return
            if not self.alive:
                ticket.finish(EngineDied("the engine process ended"))
                return
            t = time.monotonic() - start
            self._events.extend(_moment(run, i, t, words[i % len(words)]))
        self._events.append(ev.RunEnded(run=run, status="done", new_tokens=self.tokens,
                                        t_s=time.monotonic() - start))
        ticket.finish()


def _moment(run: str, i: int, t: float, text: str) -> list[ev.Event]:
    """One token and the samples around it."""
    drafted = i % 4 != 0
    return [
        ev.Token(run=run, t_s=t, index=i, id=i, text=text, step=i // 4 + 1,
                 source="draft" if drafted else "bonus"),
        ev.Phase(run=run, t_s=t, phase="decode", start_s=max(0.0, t - .004), end_s=t, step=i),
        ev.Memory(run=run, t_s=t, tier="ram", total_bytes=(90 << 20) + i * 8192,
                  weights_bytes=28 << 20, kv_bytes=i * 8192, limit_bytes=4 << 30),
        ev.Power(run=run, t_s=t, device="cpu", source="model", quality="estimated",
                 instant_w=30 + i % 5),
        ev.Draft(run=run, t_s=t, step=i // 4 + 1, drafted=4, accepted=3, emitted=4),
        ev.KernelWindow(run=run, window=i, start_s=t, end_s=t + .001, preset="light"),
        ev.Kernel(run=run, window=i, phase="decode", layer=0, name="gemv<int4> & co", kind="op",
                  cls="matmul", device="cpu", calls=3, total_s=.002, mean_s=.0006, min_s=.0005,
                  max_s=.0009),
    ]
