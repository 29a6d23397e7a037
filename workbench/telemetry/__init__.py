"""Meters and profilers: they open a window, look, and emit events. All run in the engine's process.

``Monitor`` watches one run; ``ceilings.measure`` measures this machine.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Monitor"]


def __getattr__(name: str) -> Any:
    if name == "Monitor":
        from workbench.telemetry.monitor import Monitor

        return Monitor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
