"""The live charts: one figure each for the page's life, a dict patched in place.

Sampling is the engine's business; drawing happens only when a chart's own events changed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

from workbench import analysis, charts
from workbench import events as ev
from workbench.apps.markup import tag
from workbench.apps.offline import pn

_log = logging.getLogger(__name__)
_HEIGHT = 290
_CONFIG = {"displayModeBar": False, "responsive": True, "showTips": False,
           "doubleClick": "reset", "displaylogo": False, "plotlyServerURL": ""}


class Figure(pn.pane.Plotly):
    """A Plotly pane that takes the dict as it is: building ``go.Figure`` checks every value again
    and costs 5 to 20 ms a frame, which at four charts and four frames a second is a quarter core."""

    def _to_figure(self, obj: Any) -> Any:
        return SimpleNamespace(_data=[dict(t) for t in obj["data"]], _layout=dict(obj["layout"]))

    def patch(self, figure: dict[str, Any]) -> None:
        """Put another figure's content into this one; the object stays."""
        kept = self.object
        kept["data"][:] = figure.get("data", [])
        kept["layout"].clear()
        kept["layout"].update(dressed(figure.get("layout", {}), bool(kept["data"])))
        self.param.trigger("object")


def dressed(layout: dict[str, Any], filled: bool = False) -> dict[str, Any]:
    """The layout with what belongs to this page: its size, no title (the card has it), no ground.

    A reader's zoom outlives a frame, but not the step from an empty chart to a filled one: the
    empty one's fixed range would stay."""
    kept = {k: v for k, v in layout.items() if k not in ("title", "template", "width")}
    for name, axis in kept.items():
        if name.startswith(("xaxis", "yaxis")) and not {"range", "autorange"} & axis.keys():
            kept[name] = {**axis, "autorange": True}
    margin = {"l": 52, "r": 14, "b": 40, **layout.get("margin", {})}
    margin["t"] = min(margin.get("t", 14), 26)
    if not filled:  # one sentence in the middle, which needs the whole width
        margin.update(l=8, r=8)
        kept["annotations"] = [{**a, "font": {**a.get("font", {}), "size": 12}}
                               for a in kept.get("annotations", [])]
    return {**kept, "height": _HEIGHT, "autosize": True, "margin": margin,
            "uirevision": "filled" if filled else "empty",
            "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)"}


class Chart:
    """One card: title, figure, and which events it lives on."""

    def __init__(self, name: str, kinds: tuple[type[ev.Event], ...],
                 make: Callable[[list[ev.Event]], dict[str, Any]]) -> None:
        self.name, self.kinds, self._make = name, kinds, make
        self._events: list[ev.Event] = []
        self._dirty = True
        self._title = pn.pane.HTML(str(tag("h2", name)), margin=0)
        self.figure = Figure({"data": [], "layout": dressed({})}, config=_CONFIG, height=_HEIGHT,
                             link_figure=False, margin=0, sizing_mode="stretch_width")
        self.layout = pn.Column(self._title, self.figure, margin=0, css_classes=["chartcard"],
                                sizing_mode="stretch_width")

    def reset(self) -> None:
        self._events, self._dirty = [], True

    def feed(self, events: Iterable[ev.Event]) -> None:
        mine = [e for e in events if isinstance(e, self.kinds)]
        if mine:
            self._events += mine
            self._dirty = True

    def draw(self) -> bool:
        """Redraw when something changed; a chart that fails says so and takes no other with it."""
        if not self._dirty:
            return False
        self._dirty = False
        try:
            figure = self._make(self._events)
        except Exception:
            _log.exception("the chart %r could not be drawn", self.name)
            figure = {"data": [], "layout": {"annotations": [
                {"text": "this chart could not be drawn; the server's log says why",
                 "showarrow": False, "xref": "paper", "yref": "paper", "x": .5, "y": .5}]}}
        self.figure.patch(figure)
        return True


def _why_none(events: list[ev.Event]) -> str:
    """Why a capture brought no kernels, in the last window's own words."""
    return next((e.reason for e in reversed(events)
                 if isinstance(e, ev.KernelWindow) and e.reason), "")


class Charts:
    """All charts of the page."""

    def __init__(self) -> None:
        self.charts = [
            Chart("Tokens per second", (ev.Token,),
                  lambda e: charts.tokens_per_second(analysis.tokens(e))),
            Chart("Kernels by phase", (ev.Kernel, ev.KernelWindow),
                  lambda e: charts.kernels_by_phase(analysis.kernels(e), reason=_why_none(e))),
            Chart("Memory per tier", (ev.Memory,),
                  lambda e: charts.memory_by_tier(analysis.memory(e))),
            Chart("Power", (ev.Power, ev.SensorStatus),
                  lambda e: charts.power(analysis.power(e), analysis.sensors(e))),
        ]
        self.acceptance = Chart("Draft acceptance", (ev.Draft,),
                                lambda e: charts.acceptance(analysis.drafts(e)))
        self.acceptance.layout.visible = False
        self.every = [*self.charts, self.acceptance]

    def reset(self) -> None:
        for chart in self.every:
            chart.reset()
        self.acceptance.layout.visible = False

    def feed(self, events: list[ev.Event]) -> None:
        for chart in self.every:
            chart.feed(events)
        if any(isinstance(e, ev.Draft) for e in events):
            self.acceptance.layout.visible = True

    def draw(self) -> int:
        """How many charts were redrawn."""
        return sum(chart.draw() for chart in self.every)
