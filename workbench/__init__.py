"""Inference Workbench: make LLM inference faster, smaller and cheaper, and see why.

    import workbench as wb
    bench = wb.open()          # the bundled model; or wb.open("org/name"), wb.open("path")
    bench                      # in a notebook: the controls, the charts, the text
    run = bench.run("def add(a, b):", weights="int4", wait=True)
    run.metrics["tok_per_s"]

Importing this is cheap: torch is imported by the engine's process, never here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.profiling import profile as profile
    from workbench.session import Session as Session
    from workbench.session import open as open
    from workbench.settings import Settings as Settings
    from workbench.store import Run as Run
    from workbench.store import recorded as recorded
    from workbench.store import replay as replay
    from workbench.store import runs as runs
    from workbench.traces import trace as trace

__version__ = "0.1.0"

_root = Path(__file__).parent.parent
if (_root / "pyproject.toml").is_file() and (_root / "kernels").is_dir():
    # In a checkout, kernels/, widgets/ and apps/ lie beside this folder.
    __path__.append(str(_root))

_LAZY = {"open": "workbench.session", "Session": "workbench.session",
         "Settings": "workbench.settings", "runs": "workbench.store", "replay": "workbench.store",
         "Run": "workbench.store", "profile": "workbench.profiling", "recorded": "workbench.store",
         "trace": "workbench.traces"}

__all__ = ["Run", "Session", "Settings", "__version__", "open", "profile", "recorded", "replay",
           "runs", "trace"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'workbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
