"""The history: this user's runs (and the machine's own, where the operator shares them)."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from functools import partial
from typing import Any

from workbench.analysis.metrics import format_metric
from workbench.apps.markup import Markup, tag
from workbench.apps.offline import pn
from workbench.apps.parts_output import STATUS
from workbench.store import Run

_PAGE = 10
Action = Callable[[str, str], None]


class Runs:
    """One row per run with what can be done with it. ``act(verb, run_id)`` does it."""

    def __init__(self, act: Action) -> None:
        self._act = act
        self._rows: dict[str, _Row] = {}
        self._page = 0
        self._list = pn.Column(margin=0)
        self._newer = pn.widgets.Button(label="Newer", width=80, margin=4, css_classes=["quiet"])
        self._older = pn.widgets.Button(label="Older", width=80, margin=4, css_classes=["quiet"])
        self._newer.on_click(lambda _: self._turn(-1))
        self._older.on_click(lambda _: self._turn(1))
        self._turns = pn.Row(self._newer, self._older, margin=0)
        self.layout = pn.Column(self._list, self._turns, margin=0)
        self._last: tuple[Any, ...] = ()

    def draw(self, runs: list[Run], *, shown: Run | None, pinned: Run | None,
             compared: set[str]) -> None:
        """Newest first, ten a page."""
        self._last = (runs, shown, pinned, compared)
        self._page = min(self._page, max(0, (len(runs) - 1) // _PAGE))
        page = runs[self._page * _PAGE:(self._page + 1) * _PAGE]
        for run in page:
            row = self._rows.get(run.id) or self._rows.setdefault(run.id, _Row(run.id, self._act))
            row.draw(run, shown=shown is not None and shown.id == run.id,
                     pinned=pinned is not None and pinned.id == run.id,
                     compared=run.id in compared)
        layouts: list[Any] = [self._rows[r.id].layout for r in page]
        if not layouts:
            layouts = [pn.pane.HTML(str(tag("div", "No runs yet.", cls="empty")), margin=0)]
        if self._list.objects != layouts:
            self._list.objects = layouts
        self._turns.visible = len(runs) > _PAGE
        self._newer.disabled = self._page == 0
        self._older.disabled = (self._page + 1) * _PAGE >= len(runs)

    def _turn(self, by: int) -> None:
        self._page = max(0, self._page + by)
        if self._last:
            runs, shown, pinned, compared = self._last
            self.draw(runs, shown=shown, pinned=pinned, compared=compared)


class _Row:
    """One run: its figures and its buttons."""

    def __init__(self, run_id: str, act: Action) -> None:
        self._text = pn.pane.HTML("", margin=(4, 6))
        self._buttons = {}
        for verb in ("show", "pin", "compare", "replay", "cancel"):
            button = pn.widgets.Button(label=verb.capitalize(), width=84, margin=(6, 2),
                                       css_classes=["quiet"])
            button.on_click(partial(self._clicked, act, verb, run_id))
            self._buttons[verb] = button
        self.layout = pn.Row(self._text, *self._buttons.values(), margin=0,
                             css_classes=["runrow"])

    @staticmethod
    def _clicked(act: Action, verb: str, run_id: str, event: object) -> None:
        act(verb, run_id)

    def draw(self, run: Run, *, shown: bool, pinned: bool, compared: bool) -> None:
        text = str(line(run, shown, pinned))
        if self._text.object != text:
            self._text.object = text
        live = run.status in ("running", "queued")
        self._buttons["pin"].label = "Unpin" if pinned else "Pin"
        self._buttons["compare"].label = "Leave out" if compared else "Compare"
        self._buttons["cancel"].visible = live
        for verb in ("pin", "replay"):
            self._buttons[verb].visible = run.status == "done"
        self._buttons["compare"].visible = run.status in ("done", "cancelled")


def line(run: Run, shown: bool, pinned: bool) -> Markup:
    """Label, when, how it ended, its speed."""
    speed = run.metrics.get("tok_per_s") if run.metrics else None
    return tag("div",
               tag("span", run.status, cls=f"chip {STATUS.get(run.status, '')}"),
               tag("b", run.label, cls="name"),
               tag("span", "baseline", cls="chip base") if pinned else None,
               tag("span", "shown", cls="chip") if shown else None,
               tag("span", when(run), cls="dim"),
               tag("span", format_metric(speed), cls="num") if speed and speed.value else None,
               tag("span", run.error, cls="dim") if run.status == "failed" else None,
               cls="runline")


def when(run: Run) -> str:
    """``21:04:09`` today, with the date before."""
    created = run.created
    today = datetime.datetime.now().astimezone().date()
    return created.strftime("%H:%M:%S" if created.date() == today else "%Y-%m-%d %H:%M")
