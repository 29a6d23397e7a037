"""Every exception that the workbench raises on purpose, in one tree.

    WorkbenchError            one clear sentence that says what to do
    ├── SettingsError         a value, name or combination that cannot be honoured (CLI exit code 2)
    ├── ModelError            a model that cannot be found, read or trusted
    ├── EngineError           the process that owns the model
    │   ├── EngineDied        it ended (killed, crashed); the next run starts a new one
    │   ├── OutOfMemory       a device or the host ran out of memory; the model was unloaded
    │   └── WireError         another protocol version, a refused key, a malformed message
    ├── StoreError            a run folder that cannot be written or read (disk full, damaged)
    ├── TraceError            a trace file that cannot be read
    ├── MissingDependency     an optional package or program that this action needs
    └── Cancelled             the user asked for it; finished work is kept
"""

from __future__ import annotations


class WorkbenchError(Exception):
    """Base of all; ``str()`` is one sentence for the user."""


class SettingsError(WorkbenchError, ValueError):
    """A setting that does not exist, is out of range, or conflicts with another."""


class ModelError(WorkbenchError):
    """A model that cannot be found, read, or opened safely."""


class EngineError(WorkbenchError):
    """The engine could not do what it was asked to do."""


class EngineDied(EngineError):
    """The engine process is gone."""


class OutOfMemory(EngineError):
    """A tier is full."""


class WireError(EngineError):
    """Client and engine do not understand or trust each other."""


class StoreError(WorkbenchError):
    """A run bundle cannot be written or read."""


class TraceError(WorkbenchError):
    """What was given is no trace that can be read."""


class MissingDependency(WorkbenchError, ImportError):
    """An optional package or program is not installed."""


class Cancelled(WorkbenchError):
    """The user cancelled."""


#: Name on the wire -> class, so that an error crosses the process boundary as itself.
BY_NAME: dict[str, type[WorkbenchError]] = {
    c.__name__: c
    for c in (
        WorkbenchError, SettingsError, ModelError, EngineError, EngineDied, OutOfMemory, WireError,
        StoreError, TraceError, MissingDependency,
        Cancelled,
    )
}


def one_of(what: str, given: object, valid: list[str]) -> str:
    """The sentence for an unknown name: what was given, what exists, the nearest guess."""
    import difflib

    near = difflib.get_close_matches(str(given), valid, n=1)
    guess = f" (did you mean {near[0]!r}?)" if near else ""
    return f"no {what} {str(given)!r}{guess}; valid: {', '.join(valid)}"
