"""Drawing without piling up: a frame goes out only when the browser has finished the last one.

The server counts frames in one hidden number; the browser copies it into another when it has
painted. A hidden tab does not paint, so nothing is drawn for it until it is looked at again.
"""

from __future__ import annotations

import time

from workbench.apps.offline import pn

#: Seconds after which a lost acknowledgement is forgiven.
_PATIENCE_S = 4.0


class Frames:
    """``ready()`` before drawing, ``sent()`` after."""

    def __init__(self) -> None:
        self._sent = pn.widgets.IntInput(value=0, visible=False)
        self._painted = pn.widgets.IntInput(value=0, visible=False)
        self._sent.jscallback(args={"painted": self._painted}, value="""
            const number = source.value
            requestAnimationFrame(() => { painted.value = number })""")
        self._busy = pn.widgets.IntInput(value=0, visible=False)
        self._sent.jscallback(args={"busy": self._busy}, value="""
            document.documentElement.classList.toggle('busy', busy.value === 1)""")
        self.layout = pn.Row(self._busy, self._sent, self._painted, visible=False, width=0,
                             height=0, margin=0, sizing_mode="fixed")
        self._at = 0.0
        self.drawn = 0
        self.skipped = 0

    def ready(self, now: float | None = None) -> bool:
        """Whether the browser has painted what it was sent (or has been silent for too long)."""
        now = time.monotonic() if now is None else now
        painted, sent = int(self._painted.value or 0), int(self._sent.value or 0)
        if painted >= sent or now - self._at > _PATIENCE_S:
            return True
        self.skipped += 1
        return False

    def sent(self, now: float | None = None, busy: bool = False) -> None:
        """A frame went out; ``busy`` shows the moving line under the page's head."""
        self._busy.value = int(busy)
        self._at = time.monotonic() if now is None else now
        self.drawn += 1
        self._sent.value = int(self._sent.value or 0) + 1
