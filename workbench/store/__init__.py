"""Recorded runs: bundles on disk, their index, replay. ``wb.runs()`` lists, ``wb.replay(id)`` plays."""

from __future__ import annotations

from workbench.store.archive import export_bundle, import_bundle
from workbench.store.bundled import recorded
from workbench.store.home import Store, open_bundle
from workbench.store.playback import replay
from workbench.store.run import Run, Runs
from workbench.store.tracefile import export_trace, import_trace
from workbench.store.writer import Writer

__all__ = ["Run", "Runs", "Store", "Writer", "export_bundle", "export_trace", "import_bundle", "import_trace",
           "open_bundle", "recorded", "replay", "runs"]


def runs() -> Runs:
    """The finished runs of this user's store, newest first; prints as a table."""
    return Store().runs()
