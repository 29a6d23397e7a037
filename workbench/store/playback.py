"""A recorded run, played again in time: the interface of a live run, no model, no GPU."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec

from workbench.errors import StoreError
from workbench.store.home import Store
from workbench.store.run import Run
from workbench.store.sources import Clock


def replay(run: Run | str | Path, speed: float = 1.0, store: Store | None = None) -> Run:
    """The run of a path, an id or a Run; ``status`` goes from ``running`` to what it was.

    ``speed`` 2 plays twice as fast, ``math.inf`` at once. Raises StoreError."""
    if not speed > 0:
        raise StoreError(f"speed={speed} must be above 0; 1 is as recorded, 2 twice as fast")
    recorded = run if isinstance(run, Run) else (store or Store()).open(run)
    if not recorded.source.ended():
        raise StoreError(f"run {recorded.id} is still running; replay it when it has ended")
    fast = 1e12 if math.isinf(speed) else speed
    record = msgspec.structs.replace(recorded.record)
    return Run(record, Clock(recorded.events, fast), recorded.path)
