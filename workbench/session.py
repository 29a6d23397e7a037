"""The observable session: what every view shares.

Views pull: ``version`` says whether anything changed, ``since(cursor)`` gives the new events.
Intentions are method calls and return at once. Safe to use from any thread.
"""

from __future__ import annotations

import dataclasses
import importlib
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import dispatch, evaluation
from workbench.errors import Cancelled, ModelError, SettingsError, WorkbenchError
from workbench.events import EngineState, Event, Note
from workbench.machine import Machine, this_machine
from workbench.settings import ControlView, Settings
from workbench.shape import ModelShape, from_file
from workbench.waiting import Waiting

if TYPE_CHECKING:
    from workbench.engine.client import Engine
    from workbench.forecast import Forecast
    from workbench.panels import Action
    from workbench.store import Run, Store

#: Events kept for late views; older ones are in the run's bundle.
_LOG_LIMIT = 60_000
#: The module that shows a session in a notebook, by name: nothing here imports a view.
_NOTEBOOK_VIEW = "workbench.widgets.bench"


class Session:
    """Settings, forecast, queue, runs and pin for one model. Make one with :func:`open`."""

    def __init__(self, settings: Settings, *, dispatcher: dispatch.Dispatcher, store: Store,
                 owner: str = "") -> None:
        self._lock = threading.RLock()
        self._dispatcher, self.store, self.owner = dispatcher, store, owner
        self.machine: Machine = this_machine()
        self.shape: ModelShape | None = shape_of(settings)
        self._settings = settings
        self._check(settings)
        self._log: list[Event] = []
        self._dropped = 0
        self._jobs: dict[str, dispatch.Job] = {}
        self._replays: dict[str, threading.Event] = {}
        self._promised: dict[str, Forecast] = {}
        self.runs: list[Run] = []
        self.pinned: Run | None = None
        self.live: Run | None = None
        self.state = "idle"
        self.message = ""
        self.version = 0
        dispatcher.listen(self)

    # -- settings and forecast --------------------------------------------------------------

    @property
    def model(self) -> str:
        return self._settings.model.source

    @property
    def settings(self) -> Settings:
        return self._settings

    def set(self, changes: dict[str, Any] | Settings | None = None, **more: Any) -> Settings:
        """Change settings by path; returns the new ones. A bad value raises and changes nothing."""
        with self._lock:
            new = changes if isinstance(changes, Settings) else self._settings.with_(changes, **more)
            if new.model != self._settings.model:
                self.shape = shape_of(new)
            self._check(new)
            self._settings = new
            self._changed()
            return new

    def _check(self, settings: Settings) -> None:
        if self.shape is not None:
            settings.check(self.shape, self.machine)

    def controls(self) -> list[ControlView]:
        """Every knob of the current choice, with what cannot work here marked."""
        return self._settings.controls(self.shape, self.machine)

    def forecast(self, settings: Settings | None = None) -> Forecast:
        """Time, memory and energy to expect, each with its uncertainty and basis."""
        from workbench.forecast import forecast

        settings = settings or self._settings
        if self.shape is None:
            raise ModelError("the model's config is not known yet, so there is no forecast")
        return forecast(settings, self.shape, self.machine, draft_shape=draft_shape_of(settings))

    def forecast_of(self, run: Run) -> Forecast | None:
        """What was forecast when this run was queued: its error must not know the run itself."""
        return self._promised.get(run.id)

    def refresh_machine(self) -> None:
        """Read the ceilings again after they were measured."""
        self.machine = this_machine()
        self._changed()

    # -- running ----------------------------------------------------------------------------

    def run(self, prompt: str | Sequence[str] | None = None, *, label: str = "",
            wait: bool = False, settings: Settings | None = None, **changes: Any) -> Run:
        """Queue a run with the session's settings (and ``changes`` for this run only).

        Returns at once with the live run; ``wait=True`` returns when it ended and raises what
        ended it. No prompt: the first bundled one. A list of prompts needs ``limits.batch``."""
        waited = Waiting()
        chosen = (settings or self._settings).with_(changes)
        if self.shape is not None:
            chosen.check(self.shape, self.machine)
        prompts = [prompt] if isinstance(prompt, str) else list(prompt or [_first_prompt(self.model)])
        if not all(prompts) or not prompts:
            raise SettingsError("the prompt is empty; write some text")
        if len(prompts) < chosen.limits.batch:
            prompts = (prompts * chosen.limits.batch)[:chosen.limits.batch]
        elif len(prompts) > chosen.limits.batch:
            chosen = chosen.with_({"limits.batch": len(prompts)})
        writer = self.store.record(requested=chosen, prompt=prompts, label=label or chosen.label(),
                                   owner=self.owner)
        run: Run = writer.run
        if self.shape is not None:
            run.record.environment["shape"] = dataclasses.asdict(self.shape)
        job = dispatch.Job(
            f"run {run.id}", lambda context: self._work(context, writer, chosen, prompts, waited),
            lambda events: self._receive(writer, events, waited),
            lambda error: self._finished(writer, error), self.owner)
        with self._lock:
            self.runs.append(run)
            self._jobs[run.id] = job
            if self.shape is not None:
                self._promised[run.id] = self.forecast(chosen)
            self.message = ""
            self._changed()
        waited.stage("record and forecast")
        self._dispatcher.submit(job)
        if wait:
            job.done.wait()
            if run.status == "failed":
                raise WorkbenchError(run.error)
        return run

    def attempt(self, action: Action, run: Run) -> Run:
        """One click to try: ``run`` again with the action's changes, which become the settings.

        The new run keeps what was promised, so that it can say whether the advice was right.
        Raises SettingsError when they cannot work here; nothing is changed then."""
        self.set(run.requested.with_(dict(action.changes)))
        tried = self.run(run.prompts)
        before = {name: m.value for name in action.expects or ("tok_per_s",)
                  if (m := run.metrics.get(name)) is not None and m.value is not None}
        tried.record.advice = {"of": run.id, "label": action.label, "changes": dict(action.changes),
                               "expects": dict(action.expects), "before": before}
        return tried

    def _work(self, context: dispatch.Context, writer: Any, settings: Settings,
              prompts: list[str], waited: Waiting) -> None:
        from workbench.engine.client import Generate

        run: Run = writer.run
        waited.stage("queue")
        with self._lock:
            self.live, self.state = run, "running"
            self._changed()
        run.begin()
        try:
            _ = context.engine
            waited.stage("start of the engine")
            context.call(Generate(run_id=run.id, settings=settings.to_dict(), prompts=prompts))
        finally:
            self._receive(writer, waited.ended())
        canvas = self.shape is not None and self.shape.canvas  # next-token texts say nothing of those
        if settings.quality.level != "off" and not canvas:
            evaluation.measure(context, run.id, settings)

    def _receive(self, writer: Any, events: list[Event], waited: Waiting | None = None) -> None:
        mine = [e if e.run else _stamp(e, writer.run) for e in events]
        writer.add(mine)
        self._append(mine)
        if waited is not None:  # only now can the user see them
            waited.hear(events)

    def _finished(self, writer: Any, error: WorkbenchError | None) -> None:
        run = writer.run
        status = "done" if error is None else "cancelled" if isinstance(error, Cancelled) else "failed"
        try:
            writer.finish(status=status, error=str(error) if error else "")
            if status == "done":
                self._learn(run)
        except WorkbenchError as failed:
            error, status = failed, "failed"
        with self._lock:
            self._jobs.pop(run.id, None)
            if self.pinned is None and status == "done":
                self.pinned = run
            if self.live is run or self.live is None:
                self.state = "idle"
            if error is not None:
                self.message = str(error)
                self._append([Note(run=run.id, text=str(error),
                                   level="info" if status == "cancelled" else "error")])
            self._changed()

    def _learn(self, run: Run) -> None:
        """Show the forecast its error. A failure here must never spoil a finished run."""
        if self.shape is None:
            return
        try:
            from workbench.forecast import learn

            learn(run.requested, self.shape, self.machine, run.metrics,
                  draft_shape_of(run.requested))
        except (ImportError, OSError, ValueError, KeyError):
            return

    def cancel(self, run: Run | None = None) -> None:
        """Stop the given run, or everything of this session that runs or waits."""
        with self._lock:
            jobs = [self._jobs[run.id]] if run is not None and run.id in self._jobs else (
                list(self._jobs.values()) if run is None else [])
            for stop in self._replays.values():
                stop.set()
        for job in jobs:
            self._dispatcher.cancel(job)

    def queue_position(self, run: Run) -> int | None:
        """0 running, n-th in the engine's queue, None when it is not queued."""
        job = self._jobs.get(run.id)
        return self._dispatcher.position(job) if job else None

    def measure_machine(self, wait: bool = False) -> None:
        """Queue the measurement of this machine's ceilings."""
        from workbench.engine.client import MeasureCeilings

        job = dispatch.Job("ceilings", lambda context: context.call(MeasureCeilings()),
                           self._append, self._measured)
        self._dispatcher.submit(job)
        if wait:
            job.done.wait()

    def _measured(self, error: WorkbenchError | None) -> None:
        if error is not None:
            self.message = str(error)
        self.refresh_machine()

    def unload(self, wait: bool = True) -> None:
        """Give the model's memory back; the next run loads it again."""
        from workbench.engine.client import Unload

        job = dispatch.Job("unload", lambda context: context.call(Unload()), self._append,
                           lambda error: self._changed())
        self._dispatcher.submit(job)
        if wait:
            job.done.wait()

    def warm(self) -> None:
        """Start the engine in the background, and import what finishing a run will need."""
        self._dispatcher.warm()
        threading.Thread(target=importlib.import_module, args=("polars",), daemon=True).start()

    # -- looking ----------------------------------------------------------------------------

    def pin(self, run: Run | None) -> None:
        """Make this run the baseline of every comparison; None unpins."""
        with self._lock:
            self.pinned = run
            self._changed()

    def since(self, cursor: int = 0) -> tuple[list[Event], int]:
        """Events after ``cursor`` and the next cursor."""
        with self._lock:
            start = max(0, cursor - self._dropped)
            return self._log[start:], self._dropped + len(self._log)

    def replay(self, run: Run | str | Path, speed: float = 1.0) -> Run:
        """Play a recorded run into this session as if it ran now; no model, no GPU needed."""
        from workbench.store import replay

        played = replay(run, speed=speed)
        stop = threading.Event()
        with self._lock:
            self.runs = [r for r in self.runs if r.id != played.id] + [played]
            self.live, self.state = played, "replaying"
            self._replays[played.id] = stop
            self._changed()
        threading.Thread(target=self._play, args=(played, stop), daemon=True).start()
        return played

    def _play(self, run: Run, stop: threading.Event) -> None:
        cursor = 0
        while True:
            ended = run.status not in ("running", "queued")
            events, cursor = run.since(cursor)
            if events:
                self._append(events, live=False)
            if ended or stop.wait(0.05):
                break
        with self._lock:
            self._replays.pop(run.id, None)
            if self.live is run:
                self.state = "idle"
            self._changed()

    def code(self, settings: Settings | None = None, prompt: str | None = None) -> str:
        """Python that makes this configuration again."""
        from workbench.export import export

        return export(settings or self._settings, "python", prompt=prompt)

    def engine_events(self, events: list[Event]) -> None:
        """The dispatcher's channel for what belongs to no run."""
        for event in events:
            if isinstance(event, EngineState) and event.state == "dead":
                with self._lock:
                    self.message = event.detail or dispatch.DIED
        self._append(events)

    def close(self) -> None:
        """Cancel this session's work. The engine ends when its last session's dispatcher closes."""
        self.cancel()
        if getattr(self, "_owns_dispatcher", False):
            self._dispatcher.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(self, events: list[Event], live: bool = True) -> None:
        """Add to the log. A replayed engine's states are shown, but they are not this engine's."""
        with self._lock:
            self._log.extend(events)
            excess = len(self._log) - _LOG_LIMIT
            if excess > _LOG_LIMIT // 4:
                del self._log[:excess]
                self._dropped += excess
            for event in events:
                if live and isinstance(event, EngineState):
                    self.state = event.state
            self._changed()

    def _changed(self) -> None:
        self.version += 1

    # -- showing ----------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"<workbench session: {self.model}, {self._settings.label()}, {len(self.runs)} runs>"

    def _ipython_display_(self, **_: Any) -> None:
        importlib.import_module(_NOTEBOOK_VIEW).display(self)


def _stamp(event: Event, run: Run) -> Event:
    """An engine-wide event that arrived during a run belongs to the run, at the run's clock."""
    return _replace(event, run=run.id, t_s=max(0.0, time.time() - run.created_unix_s))


def _replace(event: Event, **changes: Any) -> Event:
    import msgspec

    return msgspec.structs.replace(event, **changes)


def _first_prompt(model: str) -> str:
    from workbench import zoo

    return zoo.prompts(model=model)[0].text


def shape_of(settings: Settings) -> ModelShape | None:
    """The model's shape from its config. Raises ModelError with one sentence when there is none."""
    from workbench import zoo

    source = settings.model.source
    if source == "bundled" or source in zoo.names():
        return from_file(zoo.path(zoo.DEFAULT if source == "bundled" else source))
    path = Path(source).expanduser()
    if path.exists():
        shape = from_file(path)
        if path.is_file() and path.suffix != ".gguf" and settings.model.weights != "random":
            raise ModelError(f"{path.name} is a config without weights; open it with "
                             'weights="random", or give the checkpoint\'s folder')
        return shape
    return _shape_from_hub(source)


def _shape_from_hub(source: str) -> ModelShape:
    parts = source.split("/")
    if len(parts) != 2 or not all(parts) or source.startswith((".", "/", "~")):
        raise ModelError(f"there is no file or folder {source!r}; give a folder, a config.json, "
                         "a hub id like org/name, or 'bundled'")
    try:
        from huggingface_hub import hf_hub_download

        return from_file(hf_hub_download(source, "config.json"))
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{source!r} is neither a local folder nor reachable on the model hub "
                         f"({type(error).__name__}); download it first, or give a local folder"
                         ) from None


def draft_shape_of(settings: Settings) -> ModelShape | None:
    """The draft model's shape, when the decoding method uses one that is on this disk."""
    from workbench import zoo

    draft = getattr(settings.decoding, "draft", None)
    if draft is None:
        return None
    if draft == "auto":
        target = zoo.DEFAULT if settings.model.source == "bundled" else settings.model.source
        name = zoo.draft_for(target)
        return from_file(zoo.path(name)) if name else None
    path = zoo.path(draft) if draft in zoo.names() else Path(draft).expanduser()
    return from_file(path) if path.exists() else None


def open(model: str | Path = "bundled", *, weights: str | None = None, engine: Engine | None = None,
         store: Store | None = None, inline: bool = False, warm: bool = True,
         **changes: Any) -> Session:
    """Open a model: ``"bundled"``, a hub id, a folder, or a ``config.json``.

    ``weights="random"`` fills the shape with random numbers; any other value is the weights
    technique. ``changes`` are settings by path. ``inline`` runs the engine in this process, for
    debugging and teaching. The engine starts in the background; the model loads with the first run.

    Raises ModelError or SettingsError with one sentence that says what to do."""
    from workbench.store import Store as OpenStore

    source = {"model.source": str(model)}
    if weights in ("random", "checkpoint"):
        source["model.weights"] = weights
    elif weights is not None:
        changes["weights"] = weights
    settings = Settings().with_({**source, **changes})

    def start() -> Engine:
        from workbench.engine.client import Engine as Client

        return engine if engine is not None else Client.start(inline=inline)

    dispatcher = dispatch.Dispatcher(start)
    session = Session(settings, dispatcher=dispatcher, store=store or OpenStore())
    session._owns_dispatcher = True  # type: ignore[attr-defined]
    if warm:
        session.warm()
    return session
