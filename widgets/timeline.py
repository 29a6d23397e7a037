"""A trace on a timeline that pans and zooms: the browser asks for a window, a pyramid answers with few
marks.

However many events a trace has, at most 20,000 marks cross to the browser and are drawn on one canvas.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import anywidget
import numpy as np
import traitlets

from workbench.widgets.style import STATIC

if TYPE_CHECKING:
    from workbench.traces.lod import Pyramid
    from workbench.traces.opened import Trace

MAX_MARKS = 20_000
_MOST_NAMES = 4_000


class Timeline(anywidget.AnyWidget):
    """``window``: what is shown, [start, end] in microseconds from the trace's beginning.

    Marks travel as one binary message: per mark three float32 (start in the window, length, events in it)
    and two int32 (lane, name)."""

    _esm = (STATIC / "timeline.js").read_text("utf-8")
    lanes: Any = traitlets.List().tag(sync=True)
    span = traitlets.Float(1.0).tag(sync=True)
    title = traitlets.Unicode("").tag(sync=True)

    def __init__(self, trace: Trace, **kwargs: Any) -> None:
        from workbench.traces.lod import Pyramid

        self._pyramid: Pyramid = Pyramid(trace.frame)
        lanes = [_lane(trace, name) for name in self._pyramid.lanes]
        super().__init__(
            lanes=lanes,
            span=max(self._pyramid.end - self._pyramid.start, 1e-3),
            title=trace.source,
            **kwargs,
        )
        self.on_msg(self._message)

    def marks(self, start: float, end: float, width: int) -> tuple[list[str], bytes]:
        """Names and packed marks of [start, end], microseconds from the beginning, ``width`` pixels wide."""
        origin = self._pyramid.start
        found = self._pyramid.window(start + origin, end + origin, width, MAX_MARKS)
        names: dict[str, int] = {}
        index = [
            names.setdefault(n, len(names)) if len(names) < _MOST_NAMES or n in names else 0
            for n in found["name"].to_list()
        ]
        # Relative to the window: float32 has no room for hours in nanoseconds.
        packed = np.zeros(
            len(found),
            dtype=[("ts", "<f4"), ("dur", "<f4"), ("count", "<f4"), ("lane", "<i4"), ("name", "<i4")],
        )
        packed["ts"] = found["ts"].to_numpy() - origin - start
        packed["dur"], packed["count"] = found["dur"].to_numpy(), found["count"].to_numpy()
        packed["lane"], packed["name"] = found["lane"].to_numpy(), index
        return list(names), packed.tobytes()

    def _message(self, _: Any, content: Any, __: Any) -> None:
        """A window that the browser asks for; anything else is not answered."""
        try:
            start, end, width, ticket = (content[k] for k in ("start", "end", "width", "ticket"))
            ok = (
                all(isinstance(x, int | float) and math.isfinite(x) for x in (start, end, width))
                and end > start
            )
        except (TypeError, KeyError):
            return
        if not ok:
            return
        names, packed = self.marks(float(start), float(end), max(1, min(int(width), 8192)))
        self.send(
            {"kind": "marks", "start": start, "end": end, "names": names, "ticket": ticket}, [packed]
        )


def timeline(trace: Trace) -> Timeline:
    """The widget of an opened trace; shows itself in a notebook."""
    return Timeline(trace)


def _lane(trace: Trace, lane: str) -> str:
    pid, _, tid = lane.partition("/")
    process, thread = trace.names.get((pid, "")), trace.names.get((pid, tid))
    return " · ".join(x for x in (process or f"process {pid}", thread or f"thread {tid}") if x)[:60]
