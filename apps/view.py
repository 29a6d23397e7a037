"""One browser tab: the parts of the page over a user's workspace.

The tab pulls: a callback of this document asks the session for its version and the shown run for
its new events, a few times a second. Clicks are method calls on the workspace and return at once.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from workbench.apps import parts_compare
from workbench.apps.controls import Controls
from workbench.apps.files import add_bundle
from workbench.apps.frames import Frames
from workbench.apps.markup import sentence
from workbench.apps.offline import pn
from workbench.apps.parts_charts import Charts
from workbench.apps.parts_forecast import ForecastPart
from workbench.apps.parts_output import Output
from workbench.apps.parts_panels import Questions
from workbench.apps.parts_prompt import Prompt
from workbench.apps.parts_runs import Runs
from workbench.apps.parts_settings import SettingsPart
from workbench.apps.parts_status import Status
from workbench.apps.parts_tiles import Tiles
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from workbench.apps.hub import Hub, Workspace
    from workbench.panels import Action
    from workbench.store import Run

#: Milliseconds between looks at the session: 4 Hz.
PERIOD_MS = 250
_COMPARED = 4
#: The place of the questions among the tabs.
_QUESTIONS = 1


class View:
    """Parts, what is shown, and the redraw."""

    def __init__(self, workspace: Workspace, hub: Hub) -> None:
        self.workspace, self.session, self.hub = workspace, workspace.session, hub
        self.shown: Run | None = None
        self._cursor = 0
        self._said = ""
        self._version: tuple[int, bool] = (-1, False)
        self._slow: tuple[Any, ...] = ()
        self._compared: list[str] = []
        self._left_out: set[str] = set()
        self.frames = Frames()
        self.status = Status()
        self.controls = Controls(lambda path, value: self._set({path: value}), workspace.policy)
        self.prompt = Prompt(run=self._run, cancel=self._cancel, pin=self._pin,
                             compare=self._compare, longest=workspace.policy.max_prompt_characters)
        self.tiles, self.output, self.charts = Tiles(), Output(), Charts()
        self.forecast = ForecastPart()
        self.runs = Runs(self._act)
        self.questions = Questions(self._attempt)
        self.settings = SettingsPart(self._import)
        self._build_detail()
        self._follow()
        self.redraw()

    def _build_detail(self) -> None:
        self._comparison = pn.pane.HTML("", margin=0)
        self._effective = pn.pane.HTML("", margin=0)
        self._difference = pn.pane.HTML("", margin=0)
        self._upload = pn.widgets.FileInput(accept=".zip", multiple=False, margin=4,
                                            sizing_mode="stretch_width")
        self._upload.param.watch(self._uploaded, "value")
        self._upload_note = pn.pane.HTML("", margin=4)
        upload = pn.Column(pn.pane.HTML("<h3>Replay a recorded bundle (.zip)</h3>", margin=(10, 4, 0, 4)),
                           self._upload, self._upload_note, margin=0)
        self.tabs = pn.Tabs(
            ("Comparison", self._comparison), ("Explain", self.questions.layout),
            ("Requested / effective", self._effective),
            ("Text difference", self._difference),
            ("Runs", pn.Column(self.runs.layout, upload, margin=0)),
            ("Settings as code", self.settings.layout), margin=0,
            dynamic=True)
        self.tabs.param.watch(lambda _: self._look_at_questions(), "active")
        self.detail = pn.Column(self.tabs, self.frames.layout, margin=0)

    def parts(self) -> dict[str, Any]:
        """Region of the template -> component."""
        return {"status": self.status.layout, "controls": self.controls.layout,
                "prompt": self.prompt.layout, "tiles": self.tiles.layout,
                "output": self.output.layout, "forecast": self.forecast.layout,
                **{f"chart{i}": c.layout for i, c in enumerate(self.charts.every)},
                "detail": self.detail}

    # -- intentions -------------------------------------------------------------------------

    def _set(self, changes: dict[str, Any]) -> None:
        """Raises WorkbenchError: the control that was moved shows it."""
        self.workspace.set(changes)
        self.prompt.say("")
        self._draw_settings()

    def _import(self, text: str) -> None:
        self.workspace.import_settings(text)
        self._draw_settings()

    def _run(self) -> None:
        try:
            run = self.workspace.run(self.prompt.text.value or "")
        except WorkbenchError as error:
            self.prompt.say(str(error), "error")
            return
        self.prompt.say("")
        self._show(run)
        self.redraw()

    def _attempt(self, action: Action) -> None:
        """One click on what a panel offers: its changes become the settings, and run."""
        run = self.shown
        if run is None:
            return
        try:
            self.workspace.set(run.requested.with_(dict(action.changes)))
            self._show(self.workspace.run(run.prompt))
        except WorkbenchError as error:
            self.prompt.say(str(error), "error")
        self.redraw()

    def _look_at_questions(self) -> None:
        self.questions.shown = self.tabs.active == _QUESTIONS
        self.questions.draw(self.shown, self.session.pinned)

    def _cancel(self) -> None:
        run = self.shown
        if run is not None and self.session.queue_position(run) is not None:
            self.session.cancel(run)
        else:
            self.session.cancel()
        self.prompt.cancel.disabled = True

    def _pin(self) -> None:
        run = self.shown
        if run is not None and run.status == "done":
            self.workspace.pin(None if self._pinned_is(run) else run)
        self.redraw()

    def _compare(self) -> None:
        if self.shown is not None:
            self._add_compared(self.shown.id)
        self.tabs.active = 0
        self.redraw()

    def _act(self, verb: str, run_id: str) -> None:
        run = self.workspace.find(run_id)
        if run is None:
            self.prompt.say("that run is no longer there", "warning")
            return
        try:
            self._do(verb, run)
        except WorkbenchError as error:
            self.prompt.say(str(error), "error")
        self.redraw()

    def _do(self, verb: str, run: Run) -> None:
        if verb == "show":
            self._show(run)
        elif verb == "pin":
            self.workspace.pin(None if self._pinned_is(run) else run)
        elif verb == "cancel":
            self.session.cancel(run)
        elif verb == "replay":
            self._show(self.session.replay(run))
        elif run.id in self.compared_ids():
            self._left_out.add(run.id)
        else:
            self._add_compared(run.id)

    def _uploaded(self, event: Any) -> None:
        if not event.new:
            return
        try:
            run = add_bundle(event.new, self.workspace)
            self._show(self.session.replay(run))
            self._upload_note.object = str(sentence(f"Playing {run.label}.", "good"))
        except WorkbenchError as error:
            self._upload_note.object = str(sentence(str(error), "error"))
        self.redraw()

    # -- what is shown ----------------------------------------------------------------------

    def _pinned_is(self, run: Run) -> bool:
        return self.session.pinned is not None and self.session.pinned.id == run.id

    def _add_compared(self, run_id: str) -> None:
        self._left_out.discard(run_id)
        self._compared = [*(i for i in self._compared if i != run_id), run_id][-_COMPARED:]

    def compared_ids(self) -> set[str]:
        return {r.id for r in self._compared_runs()}

    def _compared_runs(self) -> list[Run]:
        """Chosen ones, and this visit's latest finished ones until there are enough."""
        done = [r for r in self.session.runs if r.status in ("done", "cancelled")]
        chosen = [r for i in self._compared if (r := self.workspace.find(i)) is not None]
        for run in reversed(done):
            if len(chosen) < _COMPARED - 1 and run.id not in {r.id for r in chosen}:
                chosen.append(run)
        return [r for r in sorted(chosen, key=lambda r: r.created_unix_s)
                if r.id not in self._left_out]

    def _show(self, run: Run) -> None:
        """Put a run on the page, from its first event."""
        self.shown, self._cursor = run, 0
        self.output.reset()
        self.charts.reset()
        self._slow = ()

    def _follow(self) -> None:
        """Show what another tab of this user started, or the last run after a reload."""
        newest = self.session.live or (self.session.runs[-1] if self.session.runs else None)
        if self.shown is None and newest is not None:
            self._show(newest)
        elif self.shown is not None and self.session.live is not None \
                and self.shown.id == self.session.live.id and self.shown is not self.session.live:
            self._show(self.session.live)

    # -- drawing ----------------------------------------------------------------------------

    def tick(self) -> None:
        """The periodic look: nothing to do costs nothing, a busy browser is not sent more."""
        busy = self.shown is not None and self.shown.status in ("running", "queued")
        key = (self.session.version, self.hub.dispatcher.busy)
        if (key == self._version and not busy) or not self.frames.ready():
            return
        self._version = key
        self.redraw()

    def redraw(self) -> None:
        """Bring every part up to date."""
        self._follow()
        run = self.shown
        if run is not None:
            events, self._cursor = run.since(self._cursor)
            if events:
                self.output.feed(events)
                self.charts.feed(events)
        pinned = self.session.pinned
        position = self.session.queue_position(run) if run is not None else None
        self.output.draw(run, waiting_note(position, run))
        base = pinned.metrics if pinned is not None and (
            run is None or pinned.id != run.id) else None
        live = run is not None and run.status in ("running", "queued")
        self.tiles.draw(run.metrics if run is not None else {}, base, ended=not live)
        self.charts.draw()
        self._draw_buttons(run)
        self.status.draw(self.session, self.hub, run, position)
        self._draw_settings()
        self.questions.draw(run, pinned)
        self._draw_slow(run)
        self.frames.sent(busy=bool(self.workspace.unfinished()))

    def _draw_buttons(self, run: Run | None) -> None:
        busy = bool(self.workspace.unfinished()) or self.session.state == "replaying"
        self.prompt.cancel.disabled = not busy
        done = run is not None and run.status == "done"
        self.prompt.pin.disabled = not done
        pinned = done and run is not None and self._pinned_is(run)
        self.prompt.pin.label = "Unpin baseline" if pinned else "Pin as baseline"
        self.prompt.compare.disabled = run is None
        message = self.session.message
        if run is not None and (run.status == "done" or message in (run.error, "cancelled")):
            message = ""
        if message != self._said:
            self._said = message
            self.prompt.say(message, "warning")

    def _draw_settings(self) -> None:
        settings = self.session.settings
        self.controls.show(self.session.controls())
        self.forecast.draw(self.session, self.shown)
        self.settings.draw(settings, self.prompt.text.value)

    def _draw_slow(self, run: Run | None) -> None:
        """Tables change when a run's status, the pin or the choice changes, not with each token."""
        pinned = self.session.pinned
        key = (run.id if run else "", run.status if run else "", pinned.id if pinned else "",
               tuple((r.id, r.status) for r in self.session.runs), tuple(self._compared),
               frozenset(self._left_out), run is not None and bool(run.effective),
               time.strftime("%Y-%m-%d"))
        if key == self._slow:
            return
        self._slow = key
        compared = self._compared_runs()
        parts = [parts_compare.comparison(compared, pinned),
                 parts_compare.settings_difference(compared, pinned)]
        self._comparison.object = "".join(str(p) for p in parts if p is not None)
        self._effective.object = str(parts_compare.effective(run))
        self._difference.object = str(parts_compare.difference(run, pinned))
        self.runs.draw(self.workspace.history(), shown=run, pinned=pinned,
                       compared={r.id for r in compared})
        ids = [r.id for r in ([pinned] if pinned else []) if r.status == "done"]
        ids += [r.id for r in compared if r.id not in ids and r.status in ("done", "cancelled")]
        self.prompt.offer_report(ids)


def waiting_note(position: int | None, run: Run | None) -> str:
    """Where a queued run stands."""
    if run is None or run.status != "queued" or position is None:
        return ""
    if position <= 0:
        return "Starting: the engine loads what this run needs."
    return ("Next in the queue." if position == 1 else
            f"Number {position} in the queue; runs go one at a time so that none disturbs "
            "another's numbers.")
