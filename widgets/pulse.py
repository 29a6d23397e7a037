"""One background thread that lets every open view look at its session a few times a second.

Views are held weakly: one that is closed or collected is simply not there any more, and the thread
ends when none is left. Messages to the browser may be sent from any thread (the kernel queues them
to its output thread), and a thread goes on while a cell runs, which the kernel's event loop does not.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from typing import Protocol

#: Seconds between looks: 4 Hz. Faster would cost the engine on small machines and no eye sees it.
PERIOD_S = 0.25
#: Seconds without a view after which the thread ends.
_LINGER_S = 2.0


class Looks(Protocol):
    def tick(self) -> None: ...


_views: weakref.WeakSet[Looks] = weakref.WeakSet()
_lock = threading.Lock()
_thread: threading.Thread | None = None


def add(view: Looks) -> None:
    """Look at this view's session from now on."""
    global _thread
    with _lock:
        _views.add(view)
        if _thread is None or not _thread.is_alive():
            _thread = threading.Thread(target=_loop, name="workbench-views", daemon=True)
            _thread.start()


def discard(view: Looks) -> None:
    """Stop looking."""
    with _lock:
        _views.discard(view)


def watched() -> int:
    """How many views are looked at."""
    with _lock:
        return len(_views)


def _loop() -> None:
    global _thread
    empty_since: float | None = None
    while True:
        with _lock:
            views = list(_views)
            if not views:
                empty_since = empty_since or time.monotonic()
                if time.monotonic() - empty_since > _LINGER_S:
                    _thread = None
                    return
        for view in views:
            empty_since = None
            # A view that cannot be drawn must not stop the others; it says so itself.
            with contextlib.suppress(Exception):
                view.tick()
        del views
        time.sleep(PERIOD_S)
