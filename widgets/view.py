"""The view of one session: pulls what is new, writes it into the widget, turns messages into calls.

The session is held weakly and knows nothing of this. Every public entry takes the view's lock, so
that the background look and a click's handler never interleave.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from workbench import events as ev
from workbench.analysis.live import Live
from workbench.errors import SettingsError, WorkbenchError
from workbench.widgets import panels, pulse, state
from workbench.widgets.figures import CHARTS, Figures
from workbench.widgets.forecast import forecast_state

if TYPE_CHECKING:
    from workbench.session import Session
    from workbench.store import Run
    from workbench.widgets.model import BenchWidget

_log = logging.getLogger(__name__)
#: Seconds between looks at the folder of recorded runs (another process may add some).
_HISTORY_S = 5.0


class View:
    """Glue between a session and its widget."""

    def __init__(self, session: Session, widget: BenchWidget) -> None:
        self._session = weakref.ref(session)
        self.widget = widget
        self._lock = threading.RLock()
        self.shown: Run | None = None
        self.live, self.figures = Live(), Figures()
        self._cursor = self._log_cursor = 0
        self._version: tuple[Any, ...] = ()
        self._slow: tuple[Any, ...] = ()
        self._chosen: list[str] = []
        self._panel = panels.Opened()
        self._progress: state.Json | None = None
        self._recorded: list[Run] = []
        self._recorded_at = 0.0
        self._actions: dict[str, Callable[[dict[str, Any]], None]] = {
            "set": self._set, "preview": self._preview, "run": self._run, "cancel": self._cancel,
            "pin": self._pin, "show": self._show_message, "replay": self._replay,
            "compare": self._compare, "export": self._export, "report": self._report,
            "measure": self._measure, "plotly": self._plotly, "panel": self._open_panel,
            "try": self._try}
        with widget.hold_sync():
            self._first(session)
        widget.on_msg(self._message)
        pulse.add(self)

    @property
    def session(self) -> Session | None:
        """None when nobody else holds it any more; the view then closes."""
        return self._session()

    def close(self) -> None:
        """Stop looking and end the widget."""
        pulse.discard(self)
        self.widget.on_msg(self._message, remove=True)
        self.widget.close()

    def _first(self, session: Session) -> None:
        from workbench.export import FORMATS

        w = self.widget
        w.about, w.prompts = state.about(session), state.prompts(session.model)
        w.prompt = w.prompts[0]["text"] if w.prompts else ""
        w.chart_titles = [{"name": c.name, "title": c.title} for c in CHARTS]
        w.formats = list(FORMATS)
        w.panels = panels.menu()
        self._draw_settings(session)
        self.look()

    # -- looking ----------------------------------------------------------------------------

    def tick(self) -> None:
        """The periodic look: costs nothing when nothing changed."""
        session = self.session
        if session is None or self.widget.comm is None:
            self.close()
            return
        key = (session.version, session.state)
        moving = self.shown is not None and self.shown.status in state.WORKING
        if key == self._version and not moving:
            return
        self._version = key
        try:
            self.look()
        except Exception as error:  # say it once in the view; the next look may succeed
            _log.exception("the view could not be drawn")
            self._say(f"The view could not be drawn ({type(error).__name__}); the run goes on.")

    def look(self) -> None:
        """Bring every part of the widget up to date."""
        session = self.session
        if session is None:
            return
        with self._lock:
            self._follow(session)
            self._engine_events(session)
            self._run_events()
            with self.widget.hold_sync():
                self._draw(session)

    def _follow(self, session: Session) -> None:
        """Show the run that works now; after that whatever was shown stays."""
        live = session.live
        newest = session.runs[-1] if session.runs else None
        if newest is not None and newest.status in state.WORKING and self.shown is not newest:
            if self.shown is None or self.shown.status not in state.WORKING:
                self._show(newest)
        elif self.shown is None and (live or newest) is not None:
            self._show(live or newest)

    def _show(self, run: Run | None) -> None:
        self.shown, self._cursor = run, 0
        self.live, self.figures = Live(), Figures()
        self._slow = ()

    def _engine_events(self, session: Session) -> None:
        events, self._log_cursor = session.since(self._log_cursor)
        for event in events:
            if isinstance(event, ev.Progress):
                share = event.done / event.total if event.total else None
                text = f"{event.what}: {event.detail}" if event.detail else event.what
                self._progress = {"text": text[:1].upper() + text[1:], "share": share}
            elif isinstance(event, ev.RunStarted | ev.RunEnded):
                self._progress = None

    def _run_events(self) -> None:
        if self.shown is not None:
            events, self._cursor = self.shown.since(self._cursor)
            self.live.feed(events)

    # -- drawing ----------------------------------------------------------------------------

    def _draw(self, session: Session) -> None:
        w, run = self.widget, self.shown
        w.status = state.status(session, run, self.live, self._progress)
        w.text = {"run": run.id if run else "", "label": run.label if run else "",
                  "prompt": run.prompt if run else "",
                  "sequences": [[[s, t, n] for s, t, n in self.live.pieces[k]]
                                for k in sorted(self.live.pieces)]}
        w.tiles = state.tiles(run, session.pinned)
        for name, figure in self.figures.update(self.live).items():
            setattr(w, f"figure_{name}", figure)
        if self._panel.due(run, session.pinned):
            w.panel = self._panel.draw(run, session.pinned)
        self._draw_slow(session)

    def _draw_slow(self, session: Session) -> None:
        """Tables change with a status, the pin or the choice, not with each token."""
        run, pinned = self.shown, session.pinned
        key = (run.id if run else "", run.status if run else "", pinned.id if pinned else "",
               tuple((r.id, r.status) for r in session.runs[-40:]), tuple(self._chosen),
               len(self.live.effective), time.monotonic() // _HISTORY_S if not state.busy(session)
               else 0)
        if key == self._slow:
            return
        self._slow = key
        self._draw_settings(session)
        w = self.widget
        runs = state.compared(session, self._chosen)
        w.comparison = state.comparison(runs, pinned)
        w.figure_comparison = _comparison_figure(runs, pinned)
        w.effective = state.effective(run)
        w.difference = state.difference(run, pinned)
        w.history = state.history(session, self._history(session), run)

    def _history(self, session: Session) -> list[Run]:
        if time.monotonic() - self._recorded_at > _HISTORY_S:
            self._recorded_at = time.monotonic()
            try:
                self._recorded = [r for r in session.store.runs() if r.owner == session.owner][:40]
            except WorkbenchError as error:
                self._say(str(error))
        return self._recorded

    def _draw_settings(self, session: Session) -> None:
        self.widget.controls = state.controls(session.controls())
        self.widget.forecast = forecast_state(session, run=self.shown)

    def _say(self, sentence: str, level: str = "error", path: str = "") -> None:
        """A sentence for the user; with a path it belongs to that control."""
        self.widget.send({"kind": "say", "text": sentence, "level": level, "path": path})

    # -- intentions -------------------------------------------------------------------------

    def _message(self, _: Any, content: Any, buffers: Any = None) -> None:
        """Anything that a page sends. Unknown verbs are refused, errors become one sentence."""
        if not isinstance(content, dict) or content.get("do") not in self._actions:
            return
        try:
            with self._lock:
                self._actions[content["do"]](content)
                if content["do"] not in ("preview", "plotly", "export"):
                    self.look()
        except WorkbenchError as error:
            self._say(str(error), path=str(content.get("path", "")))
            session = self.session
            if content["do"] == "set" and session is not None:
                self._draw_settings(session)
        finally:
            self.widget.send({"kind": "done", "do": content["do"], "id": content.get("id")})

    def _need(self) -> Session:
        session = self.session
        if session is None:
            raise WorkbenchError("this session is gone; open the model again and evaluate it")
        return session

    def _set(self, message: dict[str, Any]) -> None:
        session = self._need()
        path = str(message.get("path", ""))
        if path in state.HIDDEN or path not in {v.path for v in session.controls()}:
            raise SettingsError(f"{path!r} does not apply to the current choice")
        session.set({path: message.get("value")})
        with self.widget.hold_sync():
            self._draw_settings(session)

    def _preview(self, message: dict[str, Any]) -> None:
        """The forecast for a value that is still being dragged; nothing is set."""
        session = self._need()
        path = str(message.get("path", ""))
        settings = session.settings.with_({path: message.get("value")})
        self.widget.forecast = forecast_state(session, settings)

    def _run(self, message: dict[str, Any]) -> None:
        session = self._need()
        run = session.run(str(message.get("prompt", "")))
        self.widget.prompt = str(message.get("prompt", ""))
        self._show(run)

    def _cancel(self, _: dict[str, Any]) -> None:
        self._need().cancel()

    def _pin(self, message: dict[str, Any]) -> None:
        session = self._need()
        run = self._find(message)
        if run.status != "done":
            raise WorkbenchError("only a finished run can be the baseline")
        pinned = session.pinned
        session.pin(None if pinned is not None and pinned.id == run.id else run)

    def _find(self, message: dict[str, Any]) -> Run:
        session = self._need()
        wanted = str(message.get("run", "")) or (self.shown.id if self.shown else "")
        for run in [*reversed(session.runs), *self._recorded]:
            if run.id == wanted:
                return run
        raise WorkbenchError("that run is no longer there")

    def _show_message(self, message: dict[str, Any]) -> None:
        self._show(self._find(message))

    def _replay(self, message: dict[str, Any]) -> None:
        self._show(self._need().replay(self._find(message)))

    def _compare(self, message: dict[str, Any]) -> None:
        self._chosen = [str(i) for i in message.get("runs", [])][:16]

    def _export(self, message: dict[str, Any]) -> None:
        from workbench.export import export

        session = self._need()
        to = str(message.get("format", "python"))
        run = self._find(message) if message.get("run") else None
        settings = run.requested if run is not None else session.settings
        text = export(settings, to, prompt=str(message.get("prompt") or "") or None)
        self.widget.send({"kind": "export", "format": to, "text": text, "id": message.get("id")})

    def _report(self, message: dict[str, Any]) -> None:
        """One self-contained HTML page of the compared runs, for the browser to save."""
        from workbench.report import html

        session = self._need()
        runs = state.compared(session, self._chosen)
        if not runs:
            raise WorkbenchError("there is no finished run to report yet; press Run first")
        page = html(runs, baseline=session.pinned)
        self.widget.send({"kind": "file", "name": "workbench-report.html", "type": "text/html"},
                         buffers=[page.encode()])

    def _open_panel(self, message: dict[str, Any]) -> None:
        self._panel.open(str(message.get("key", "")))

    def _try(self, message: dict[str, Any]) -> None:
        """An action that the opened panel offers."""
        action = self._panel.action(message.get("index"))
        if self.shown is None or action is None:
            raise WorkbenchError("this offer is out of date; open the panel again")
        self._show(self._need().attempt(action, self.shown))

    def _measure(self, _: dict[str, Any]) -> None:
        self._need().measure_machine()

    def _plotly(self, _: dict[str, Any]) -> None:
        from workbench.widgets.model import plotly_script

        self.widget.send({"kind": "plotly"}, buffers=[plotly_script()])


def _comparison_figure(runs: list[Run], baseline: Run | None) -> dict[str, Any]:
    from workbench import analysis, charts

    return charts.comparison(analysis.compare(runs, baseline)) if len(runs) > 1 else {}
