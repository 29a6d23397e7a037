"""Trace files of any origin (Chrome, Kineto, PyTorch's profiler): read, measured, drawn.

    import workbench as wb
    t = wb.trace("trace.json.gz")          # or a run, or a run's id
    t.summary()                            # kernels, idle by cause, launches, in sentences
    t.breakdown(), t.idle(), t.launches(), t.queue(), t.critical_path(), t.fusion(), t.tklqt()

Importing this costs nothing; the reader is imported when it is called.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.store import Run
    from workbench.traces.opened import Trace

__all__ = ["trace"]


def trace(
    source: str | Path | Run,
    *,
    progress: Callable[[float], None] | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Trace:
    """Open a trace file, a run, or a run's id.

    ``progress(share)`` is called while a file is read. Raises TraceError with one sentence for what is no
    trace, Cancelled when ``cancelled()`` says so."""
    from workbench.traces.opened import open_trace

    return open_trace(source, progress, cancelled)
