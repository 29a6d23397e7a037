"""The opened panel of one view: made when it is opened, and again when its runs changed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from workbench.panels import Action, Content, panel, panels, plain

if TYPE_CHECKING:
    from workbench.store import Run


def menu() -> list[dict[str, str]]:
    """The questions there are."""
    return [{"key": p.key, "title": p.title, "question": p.question} for p in panels()]


class Opened:
    """Which panel is open, and what it said last."""

    def __init__(self) -> None:
        self._key = ""
        self._content = Content()
        self._drawn: tuple[Any, ...] = ()
        self._next = 0.0

    def open(self, key: str) -> None:
        """Show this panel from now on. Raises WorkbenchError for a key that there is not."""
        self._key = panel(key).key
        self._drawn = ()

    def due(self, run: Run | None, baseline: Run | None) -> bool:
        """Whether it says something else now."""
        if not self._key:
            return False
        if self._state(run, baseline) != self._drawn:
            return True
        live = run is not None and run.status in ("running", "queued")
        return live and time.monotonic() >= self._next

    def draw(self, run: Run | None, baseline: Run | None) -> dict[str, Any]:
        """The panel's content as plain values."""
        self._drawn = self._state(run, baseline)
        found = panel(self._key)
        began = time.monotonic()
        self._content = found.content(run, baseline) if run is not None else Content(
            empty="Run something first; then this panel speaks of it.")
        self._next = time.monotonic() + found.pause(time.monotonic() - began)
        about = "" if run is None else f"About {run.label}" + (
            f", against {baseline.label}." if baseline is not None and baseline.id != run.id else ".")
        return {"key": found.key, "question": found.question, "about": about,
                **plain(self._content)}

    def action(self, index: Any) -> Action | None:
        """The n-th offer of what was drawn last; what lies behind its figures comes after its buttons."""
        offers = [*self._content.actions, *self._content.picks]
        return offers[index] if isinstance(index, int) and 0 <= index < len(offers) else None

    def _state(self, run: Run | None, baseline: Run | None) -> tuple[Any, ...]:
        return (self._key, run.id if run else "", run.status if run else "",
                baseline.id if baseline else "")
