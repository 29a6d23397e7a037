"""One workspace per user, one engine for all of them.

A workspace is a session with its own settings, runs, pin and folder on disk; a user's tabs share
it. The engine and its queue are shared: one run at a time, in turns, so that nobody's run disturbs
another's numbers. The hub forgets who has left, cancels what they left behind, and unloads an
engine that nobody uses.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.apps.policy import Policy
from workbench.apps.turns import Turns
from workbench.dispatch import Dispatcher
from workbench.errors import StoreError, WorkbenchError
from workbench.machine import home
from workbench.session import Session
from workbench.settings import Settings
from workbench.store import Store

if TYPE_CHECKING:
    from workbench.engine.client import Engine
    from workbench.store import Run

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lifetimes:
    """Seconds. ``left``: after a user's last tab closed, until his waiting and running work is
    cancelled; ``forget``: until his workspace leaves memory (runs stay on disk); ``unload``: after
    the last run, until the model's memory is given back."""

    left: float = 20.0
    forget: float = 3600.0
    unload: float = 600.0


@dataclass(eq=False)
class Workspace:
    """What one user has: every intention of a web page goes through these methods."""

    user: str
    session: Session
    policy: Policy
    shared: Store | None = None
    tabs: int = 0
    left_at: float = 0.0
    used_at: float = 0.0
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def set(self, changes: dict[str, Any] | Settings) -> Settings:
        """Change settings; raises SettingsError when this server does not offer the new ones."""
        now = self.session.settings
        new = changes if isinstance(changes, Settings) else now.with_(changes)
        self.policy.check(new)
        self.session.set(new)
        self.remember()
        return new

    def pin(self, run: Run | None) -> None:
        """Make a run the baseline; None unpins."""
        self.session.pin(run)
        self.remember()

    def run(self, prompt: str) -> Run:
        """Queue a run."""
        self.policy.check_prompt(prompt)
        self.policy.check(self.session.settings)
        with self._lock:
            self.policy.check_waiting(len(self.unfinished()))
            self.used_at = time.monotonic()
            return self.session.run(prompt)

    def unfinished(self) -> list[Run]:
        """Runs of this user that wait or run."""
        return [r for r in self.session.runs if self.session.queue_position(r) is not None]

    def import_settings(self, text: str) -> Settings:
        """Settings from JSON or YAML text."""
        self.check_size(len(text.encode()))
        kind = Settings.from_json if text.lstrip().startswith("{") else Settings.from_yaml
        return self.set(kind(text))

    def history(self) -> list[Run]:
        """This user's runs, this visit's and those on disk, newest first, then the machine's own."""
        mine = {run.id: run for run in _readable(self.session.store)}
        mine.update({run.id: run for run in self.session.runs})
        others = {} if self.shared is None else {r.id: r for r in _readable(self.shared)}
        newest = sorted(mine.values(), key=lambda r: str(r.created), reverse=True)
        return newest + [r for r in sorted(others.values(), key=lambda r: str(r.created),
                                           reverse=True) if r.id not in mine]

    def find(self, run_id: str) -> Run | None:
        return next((r for r in self.history() if r.id == run_id), None)

    # -- what outlives the server -------------------------------------------------------------

    @property
    def _notes(self) -> Path:
        return self.session.store.root.parent / "workspace.json"

    def remember(self) -> None:
        """Keep settings and pin for the next start; a full disk must not stop the user."""
        pinned = self.session.pinned
        data = {"settings": self.session.settings.to_dict(), "pinned": pinned.id if pinned else None}
        with contextlib.suppress(OSError):
            self._notes.parent.mkdir(parents=True, exist_ok=True)
            aside = self._notes.with_suffix(".new")
            aside.write_text(json.dumps(data), encoding="utf-8")
            aside.replace(self._notes)

    def recall(self) -> None:
        """Settings and pin of the last visit, where they are still valid here."""
        try:
            data = json.loads(self._notes.read_text(encoding="utf-8"))
            self.set(Settings.from_dict(data["settings"]))
            if data["pinned"]:
                self.session.pin(self.session.store.open(data["pinned"]))
        except (OSError, ValueError, KeyError, TypeError, WorkbenchError):
            return

    def check_size(self, size: int) -> None:
        """Raises StoreError for an upload that is too large."""
        if size > self.policy.max_upload_bytes:
            raise StoreError(f"the file has {size / 2**20:.1f} MiB; this server takes at most "
                             f"{self.policy.max_upload_bytes / 2**20:.0f} MiB")


def _readable(store: Store) -> list[Run]:
    """Finished and interrupted runs of a store; a damaged store shows nothing instead of failing."""
    try:
        return list(store.runs())
    except (WorkbenchError, OSError) as error:
        _log.warning("runs cannot be listed: %s", error)
        return []


class Hub:
    """All workspaces of one server. Safe to call from any thread."""

    def __init__(self, *, settings: Settings | None = None, policy: Policy | None = None,
                 start_engine: Callable[[], Engine] | None = None, root: Path | None = None,
                 shared: Store | None = None, lifetimes: Lifetimes | None = None) -> None:
        self.settings = settings or Settings()
        self.policy = policy or Policy()
        self.root = root or home() / "users"
        self.lifetimes = lifetimes or Lifetimes()
        self.shared = shared
        self._lock = threading.RLock()
        self._workspaces: dict[str, Workspace] = {}
        self.dispatcher = Dispatcher(start_engine or _start_engine, waiting=Turns())
        self._used_at = self._unloaded_at = 0.0
        self._closed = threading.Event()
        threading.Thread(target=self._tidy, name="workbench-hub", daemon=True).start()

    def enter(self, user: str) -> Workspace:
        """A tab of this user opened."""
        with self._lock:
            workspace = self._workspaces.get(user)
            if workspace is None:
                workspace = self._workspaces[user] = self._make(user)
            workspace.tabs += 1
            return workspace

    def leave(self, workspace: Workspace) -> None:
        """A tab closed. After a short grace (a reload is no farewell) only his work is cancelled."""
        with self._lock:
            workspace.tabs = max(0, workspace.tabs - 1)
            workspace.left_at = time.monotonic()

    def peek(self, user: str) -> Workspace | None:
        """The user's workspace, if he has one now."""
        return self._workspaces.get(user)

    @property
    def users(self) -> list[str]:
        return list(self._workspaces)

    def waiting(self) -> int:
        """Runs of all users that wait or run."""
        with self._lock:
            return sum(len(w.unfinished()) for w in self._workspaces.values())

    def close(self) -> None:
        """Cancel everything and end the engine."""
        self._closed.set()
        with self._lock:
            for workspace in self._workspaces.values():
                workspace.session.close()
            self._workspaces.clear()
        self.dispatcher.close()

    def _make(self, user: str) -> Workspace:
        if len(self._workspaces) >= self.policy.max_users:
            idle = [w for w in self._workspaces.values() if not w.tabs]
            if not idle:
                raise WorkbenchError(f"this server has its {self.policy.max_users} users already; "
                                     "try again later")
            self._forget(min(idle, key=lambda w: w.left_at))
        session = Session(self.settings, dispatcher=self.dispatcher,
                          store=Store(self.root / user / "runs"), owner=user)
        workspace = Workspace(user, session, self.policy, self.shared)
        workspace.recall()
        return workspace

    def _forget(self, workspace: Workspace) -> None:
        workspace.session.close()
        self._workspaces.pop(workspace.user, None)

    # -- the tidy thread --------------------------------------------------------------------

    def _tidy(self) -> None:
        while not self._closed.wait(1.0):
            with contextlib.suppress(WorkbenchError):
                self.tidy(time.monotonic())

    def tidy(self, now: float) -> None:
        """One round of housekeeping at the monotonic time ``now``."""
        with self._lock:
            for workspace in list(self._workspaces.values()):
                away = 0.0 if workspace.tabs else now - workspace.left_at
                if away > self.lifetimes.left and workspace.unfinished():
                    workspace.session.cancel()
                if away > self.lifetimes.forget:
                    self._forget(workspace)
            if self.waiting():
                self._used_at = now
                return
            self._used_at = max([self._used_at, *(w.used_at for w in self._workspaces.values())])
            spare = next(iter(self._workspaces.values()), None)
        loaded = self._used_at > self._unloaded_at and self.dispatcher.engine is not None
        if loaded and now - self._used_at > self.lifetimes.unload:
            self._unloaded_at = now
            self._unload(spare)

    def _unload(self, workspace: Workspace | None) -> None:
        """Give the model's memory back; without any workspace left, end the engine itself."""
        if workspace is not None:
            workspace.session.unload(wait=False)
        elif (engine := self.dispatcher.engine) is not None:
            engine.close()


def _start_engine() -> Engine:
    from workbench.engine.client import Engine

    return Engine.start()
