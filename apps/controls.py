"""Every knob of the session as a native widget, generated from ``session.controls()``.

Nothing here knows a technique's name: a new technique file brings its own controls. A choice that
cannot work on this machine stays visible, disabled, with its reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workbench.apps.markup import Markup, join, tag
from workbench.apps.offline import pn
from workbench.apps.policy import Policy
from workbench.errors import WorkbenchError
from workbench.settings import ControlView

#: Group -> what the page calls it; groups that start closed come last.
TITLES = {"weights": "Weights", "decoding": "Decoding", "kv": "KV cache", "tiers": "Memory tiers",
          "limits": "Length", "sampling": "Sampling", "quality": "Quality",
          "telemetry": "Telemetry", "compute": "Device", "model": "Model", "seed": "Seed"}
_CLOSED = ("sampling", "quality", "telemetry", "compute", "seed")
#: The sections whose own control of this name leads the page's order.
_ORDER = ("model", "weights", "decoding", "kv", "tiers", "limits", "sampling", "quality",
          "telemetry", "compute", "seed")


class Controls:
    """Widgets by path. ``change(path, value)`` is called when the user moved one and may raise
    WorkbenchError: the sentence is shown under the widget and the old value comes back."""

    def __init__(self, change: Callable[[str, Any], None], policy: Policy) -> None:
        self._change, self._policy = change, policy
        self._widgets: dict[str, Any] = {}
        self._helps: dict[str, pn.pane.HTML] = {}
        self._views: dict[str, ControlView] = {}
        self._cards: dict[str, pn.Card] = {}
        self._syncing = False
        self.layout = pn.Column(sizing_mode="stretch_width", margin=0)

    def show(self, views: list[ControlView]) -> None:
        """Make the widgets agree with the session's controls; existing ones are kept."""
        views = [v for v in views if not self._policy.hidden(v)]
        self._views = {v.path: v for v in views}
        self._syncing = True
        try:
            for view in views:
                self._show_one(view)
            self._arrange(views)
        finally:
            self._syncing = False

    def _show_one(self, view: ControlView) -> None:
        widget = self._widgets.get(view.path)
        signature = (view.kind, view.choices, view.soft, view.low, view.high,
                     tuple(n for n in view.unavailable if n != view.value))
        if widget is None or widget.tags != [signature]:
            widget = make_widget(view, self._policy)
            widget.tags = [signature]
            widget.param.watch(lambda event, path=view.path: self._moved(path, event), "value")
            self._widgets[view.path] = widget
            self._helps[view.path] = pn.pane.HTML("", margin=(0, 4, 8, 4))
        elif not _same(widget.value, shown(view, widget)):
            widget.value = shown(view, widget)
        self._explain(view)

    def _explain(self, view: ControlView, error: str = "") -> None:
        text = str(help_line(view, error))
        if self._helps[view.path].object != text:
            self._helps[view.path].object = text

    def _moved(self, path: str, event: Any) -> None:
        if self._syncing:
            return
        view = self._views.get(path)
        if view is None or _same(event.new, view.value):
            return
        try:
            self._change(path, event.new)
        except WorkbenchError as error:
            self._syncing = True
            try:
                self._widgets[path].value = shown(view, self._widgets[path])
                self._explain(view, str(error))
            finally:
                self._syncing = False

    def _arrange(self, views: list[ControlView]) -> None:
        groups: dict[str, list[Any]] = {}
        for view in views:
            groups.setdefault(view.group, []).extend(
                [self._widgets[view.path], self._helps[view.path]])
        cards = []
        for name in sorted(groups, key=lambda n: _ORDER.index(n) if n in _ORDER else 99):
            card = self._cards.get(name)
            if card is None:
                card = self._cards[name] = pn.Card(
                    title=TITLES.get(name, name), collapsed=name in _CLOSED, margin=(0, 0, 10, 0),
                    css_classes=["knobs"], sizing_mode="stretch_width")
            if list(card.objects) != groups[name]:
                card.objects = groups[name]
            cards.append(card)
        if list(self.layout.objects) != cards:
            self.layout.objects = cards


def make_widget(view: ControlView, policy: Policy) -> Any:
    """The native widget for one control."""
    label = _label(view)
    common = {"label": label, "margin": (2, 4, 1, 4), "sizing_mode": "stretch_width"}
    if view.path == "model.source" and not policy.hub:
        options = list(dict.fromkeys([*policy.models(), str(view.value)]))
        return pn.widgets.Select(options=options, value=view.value, **common)
    if view.kind == "choice":
        return pn.widgets.Select(options=list(view.choices), value=view.value,
                                 disabled_options=[n for n in view.unavailable
                                                   if n != view.value], **common)
    if view.kind == "boolean":
        return pn.widgets.Checkbox(value=bool(view.value), **common)
    if view.kind in ("integer", "number"):
        return _number(view, common)
    return pn.widgets.TextInput(value=str(view.value), **common)


def _number(view: ControlView, common: dict[str, Any]) -> Any:
    """A slider over the usual range with a box that takes the whole one."""
    integer = view.kind == "integer"
    low, high = view.soft or (view.low, view.high)
    if low is None or high is None or view.path == "seed":
        kind = pn.widgets.IntInput if integer else pn.widgets.FloatInput
        # A browser's numbers are exact to 2**53.
        bound = None if view.high is None else min(view.high, 2**53 - 1)
        return kind(value=view.value, start=view.low, end=bound, step=view.step or 1, **common)
    low, high = min(low, view.value), max(high, view.value)
    if integer:
        return pn.widgets.EditableIntSlider(
            value=view.value, start=int(low), end=int(high), step=int(view.step or 1),
            fixed_start=_whole(view.low), fixed_end=_whole(view.high), **common)
    return pn.widgets.EditableFloatSlider(
        value=view.value, start=low, end=high, step=view.step or (high - low) / 100,
        fixed_start=view.low, fixed_end=view.high, **common)


def shown(view: ControlView, widget: Any) -> Any:
    """The control's value as the widget holds it."""
    return str(view.value) if isinstance(widget, pn.widgets.TextInput) else view.value


def help_line(view: ControlView, error: str = "") -> Markup:
    """One line under the widget; what is not available says why; an error comes first."""
    parts = [tag("div", error, cls="problem", role="alert")] if error else []
    parts.append(tag("div", view.help, cls="help"))
    off = [tag("div", tag("b", str(name)), " is not available: ", why, cls="help off")
           for name, why in view.unavailable.items()]
    if len(off) > 1:
        parts.append(tag("details", tag("summary", f"{len(off)} not available here"), *off,
                         cls="help"))
    else:
        parts += off
    return join(parts)


def _label(view: ControlView) -> str:
    if view.path == view.group and view.kind == "choice":
        return "method"
    return f"{view.label} ({view.unit})" if view.unit and view.unit not in view.label else view.label


def _same(a: Any, b: Any) -> bool:
    return (type(a) is type(b) and bool(a == b)) or (
        isinstance(a, int | float) and isinstance(b, int | float)
        and not isinstance(a, bool) and not isinstance(b, bool) and a == b)


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
