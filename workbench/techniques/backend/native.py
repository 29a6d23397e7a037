"""The workbench's own runtime: every technique, every event."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.techniques.backend import Backend


@dataclass(frozen=True)
class Native(Backend):
    """The workbench's own runtime: every technique works and every kernel is seen."""

    title = "native runtime"
