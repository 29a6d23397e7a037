"""Questions about the shown run: one panel at a time, made when its tab is looked at."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from workbench.apps.markup import Markup, join, sentence, table, tag
from workbench.apps.offline import pn
from workbench.apps.parts_charts import Figure, dressed
from workbench.panels import Action, Content, panel, panels, say

if TYPE_CHECKING:
    from workbench.store import Run

_CONFIG = {"displayModeBar": False, "responsive": True, "showTips": False, "displaylogo": False,
           "plotlyServerURL": ""}


class Questions:
    """A menu of questions and the answer to the chosen one.

    ``attempt(action)``: what a click on an offer does."""

    def __init__(self, attempt: Callable[[Action], None]) -> None:
        self._attempt = attempt
        self._drawn: tuple[Any, ...] = ()
        self._next = 0.0
        self._run: Run | None = None
        self._baseline: Run | None = None
        self.shown = False
        self.menu = pn.widgets.Select(
            label="Question", options={f"{p.title}: {p.question}": p.key for p in panels()},
            margin=4, sizing_mode="stretch_width")
        self.menu.param.watch(lambda _: self.draw(self._run, self._baseline), "value")
        self._answer = pn.Column(margin=0, sizing_mode="stretch_width")
        self.layout = pn.Column(self.menu, self._answer, margin=0, sizing_mode="stretch_width")

    def draw(self, run: Run | None, baseline: Run | None) -> None:
        """Bring the answer up to date; nothing happens while another tab is in front."""
        self._run, self._baseline = run, baseline
        if not self.shown or self.menu.value is None:
            return
        key = (self.menu.value, run.id if run else "", run.status if run else "",
               baseline.id if baseline else "")
        live = run is not None and run.status in ("running", "queued")
        if key == self._drawn and not (live and time.monotonic() >= self._next):
            return
        self._drawn = key
        began = time.monotonic()
        found = panel(str(self.menu.value))
        content = found.content(run, baseline) if run is not None else Content(
            empty="Run something first; then this panel speaks of it.")
        self._put(self._parts(found.question, content))
        self._next = time.monotonic() + found.pause(time.monotonic() - began)

    def _put(self, parts: list[Any]) -> None:
        """Into the page; where there are parts of the same kinds, into these: a picture then only changes."""
        there = list(self._answer.objects)
        if [type(p) for p in there] != [type(p) for p in parts] or not all(map(_changes, [*there, *parts])):
            self._answer.objects = parts
            return
        for old, new in zip(there, parts, strict=True):
            if isinstance(old, Figure):
                old.height = new.height
                old.object["data"][:] = new.object["data"]
                old.object["layout"].clear()
                old.object["layout"].update(new.object["layout"])
                old.param.trigger("object")
            elif old.object != new.object:
                old.object = new.object

    def _parts(self, question: str, content: Content) -> list[Any]:
        lines = [tag("div", question, cls="empty")]
        if content.empty:
            return [_html(join([*lines, sentence(content.empty)]))]
        parts: list[Any] = [_html(join([*lines, *[tag("p", s, cls="explain")
                                                  for s in content.sentences]]))]
        if content.actions:
            parts.append(pn.FlexBox(*[self._offer(a) for a in content.actions], margin=0))
        for figure in content.figures:
            title = figure.get("layout", {}).get("title")
            title = title.get("text") if isinstance(title, dict) else title
            if title and len(content.figures) > 1:  # the page's charts leave theirs to the card
                parts.append(_html(tag("h3", str(title))))
            parts.append(self._figure(figure, content))
        parts += [_html(join([tag("h3", t.title) if t.title else None, table(
            t.columns, [[say(c) for c in row] for row in t.rows], cls="grid wide")]))
            for t in content.tables]
        return parts

    def _offer(self, action: Action) -> Any:
        button = pn.widgets.Button(label=action.label, color="primary", margin=4,
                                   width=34 + 8 * len(action.label), sizing_mode="fixed",
                                   styles={"max-width": "calc(100% - 8px)"}, description=action.help or None)
        button.on_click(lambda _: self._attempt(action))
        return button

    def _figure(self, figure: dict[str, Any], content: Content) -> Any:
        """A click on a mark that stands for an offer tries it."""
        pane = _figure(figure)
        if (figure.get("layout", {}).get("meta") or {}).get("picks"):
            pane.param.watch(lambda change: self._pick(change.new, figure, content), "click_data")
        return pane

    def _pick(self, click: Any, figure: dict[str, Any], content: Content) -> None:
        points = click.get("points") if isinstance(click, dict) else None
        action = content.picked(_mark(points[0], figure)) if points else None
        if action is not None:
            self._attempt(action)


def _changes(part: Any) -> bool:
    """Whether it can be changed in place: text, and pictures that no click depends on."""
    if isinstance(part, Figure):
        return not (part.object["layout"].get("meta") or {}).get("picks")
    return isinstance(part, pn.pane.HTML)


def _mark(point: dict[str, Any], figure: dict[str, Any]) -> Any:
    """The clicked mark's ``customdata``; Panel does not pass on what lies in rows, so those are looked up."""
    try:
        trace = figure["data"][point["curveNumber"]]
        held = trace["customdata"]
        if not isinstance(held[0], list):
            return held[point["pointNumber"]]
        return held[list(trace["y"]).index(point["y"])][list(trace["x"]).index(point["x"])]
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def _html(markup: Markup) -> Any:
    return pn.pane.HTML(str(markup), margin=(0, 4), sizing_mode="stretch_width")


def _figure(figure: dict[str, Any]) -> Any:
    height = int(figure.get("layout", {}).get("height") or 320)
    layout = {**dressed(figure.get("layout", {}), bool(figure.get("data"))), "height": height}
    return Figure({"data": list(figure.get("data", [])), "layout": layout}, config=_CONFIG,
                  height=height, link_figure=False, margin=4, sizing_mode="stretch_width")
