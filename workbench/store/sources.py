"""Where a run's events come from: this process's memory, another process's log, a finished table."""

from __future__ import annotations

import bisect
import itertools
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from workbench import events as ev
from workbench.errors import StoreError
from workbench.store import log
from workbench.store.record import Record, read


class Source(Protocol):
    """Events so far. ``wait`` returns whether there will be no more."""

    def events(self) -> list[ev.Event]:
        """A snapshot that the caller may keep but not change."""

    def since(self, cursor: int) -> tuple[list[ev.Event], int]: ...

    def ended(self) -> bool: ...

    def wait(self, timeout: float | None) -> bool: ...

    def final_record(self) -> Record | None:
        """The finished run's record, where somebody else finished it."""


class Memory:
    """A run of this process: grows while the engine reports."""

    def __init__(self) -> None:
        self._events: list[ev.Event] = []
        self._done = threading.Event()
        self._lock = threading.Lock()

    def append(self, events: Sequence[ev.Event]) -> None:
        with self._lock:
            self._events.extend(events)

    def finish(self) -> None:
        self._done.set()

    def events(self) -> list[ev.Event]:
        with self._lock:
            return list(self._events)

    def since(self, cursor: int) -> tuple[list[ev.Event], int]:
        with self._lock:
            return self._events[max(0, cursor):], len(self._events)

    def ended(self) -> bool:
        return self._done.is_set()

    def wait(self, timeout: float | None) -> bool:
        return self._done.wait(timeout)

    def final_record(self) -> Record | None:
        return None


class Table:
    """A finished run: ``events.parquet``, read when first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._events: list[ev.Event] | None = None
        self._lock = threading.Lock()

    def events(self) -> list[ev.Event]:
        with self._lock:
            if self._events is None:
                self._events = read_table(self._folder)
            return self._events

    def since(self, cursor: int) -> tuple[list[ev.Event], int]:
        events = self.events()
        return events[max(0, cursor):], len(events)

    def ended(self) -> bool:
        return True

    def wait(self, timeout: float | None) -> bool:
        return True

    def final_record(self) -> Record | None:
        return None


def read_table(folder: Path) -> list[ev.Event]:
    """The events of a bundle. Raises StoreError when the table is missing or damaged."""
    import polars as pl

    from workbench.analysis.frames import from_wide

    path = folder / "events.parquet"
    try:
        return from_wide(pl.read_parquet(path.read_bytes()))
    except FileNotFoundError:
        raise StoreError(f"the run in {folder} has no events.parquet; only its summary "
                         "can be shown") from None
    except (OSError, pl.exceptions.PolarsError) as error:
        raise StoreError(f"{path} is damaged ({error}); only the run's summary can be shown"
                         ) from None


class Tail:
    """A run that another process is recording: its log, followed."""

    def __init__(self, folder: Path, final: Path) -> None:
        self._folder, self._final = folder, final
        self._events: list[ev.Event] = []
        self._offset = 0
        self._lock = threading.Lock()

    def events(self) -> list[ev.Event]:
        return self.since(0)[0]

    def since(self, cursor: int) -> tuple[list[ev.Event], int]:
        with self._lock:
            if self._final.is_dir():
                finished = read_table(self._final)
                self._events += finished[len(self._events):]
            else:
                new, self._offset = log.read(self._folder / "events.log", self._offset)
                self._events += new
            return self._events[max(0, cursor):], len(self._events)

    def ended(self) -> bool:
        return not self._folder.is_dir()

    def wait(self, timeout: float | None) -> bool:
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.ended():
            if deadline is not None and time.monotonic() >= deadline:
                return False
            time.sleep(0.05)
        return True

    def final_record(self) -> Record | None:
        return read(self._final) if self.ended() and self._final.is_dir() else None


class Clock:
    """A recorded run played again: events appear when they happened, ``speed`` times as fast.

    What came before the run's clock began (loading) and what carries another clock (evaluation)
    keeps its place in the order; no event appears before one that was recorded before it."""

    def __init__(self, events: Sequence[ev.Event], speed: float) -> None:
        self._events = list(events)
        self._due = due_times(self._events)
        self._speed = speed
        self._start = time.monotonic()

    def _visible(self) -> int:
        return bisect.bisect_right(self._due, (time.monotonic() - self._start) * self._speed)

    def events(self) -> list[ev.Event]:
        return self._events[:self._visible()]

    def since(self, cursor: int) -> tuple[list[ev.Event], int]:
        end = max(self._visible(), max(0, cursor))
        return self._events[max(0, cursor):end], min(end, len(self._events))

    def ended(self) -> bool:
        return self._visible() >= len(self._events)

    def wait(self, timeout: float | None) -> bool:
        last = self._due[-1] / self._speed if self._due else 0.0
        left = max(0.0, self._start + last - time.monotonic())
        time.sleep(left if timeout is None else min(left, timeout))
        return self.ended()

    def final_record(self) -> Record | None:
        return None


def due_times(events: Sequence[ev.Event]) -> list[float]:
    """For every event the replay time at which it appears, never decreasing."""
    start = next((i for i, e in enumerate(events) if isinstance(e, ev.RunStarted)), 0)
    own = [0.0 if i < start else max(0.0, e.t_s) for i, e in enumerate(events)]
    return list(itertools.accumulate(own, max))
