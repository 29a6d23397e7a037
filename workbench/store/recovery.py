"""Runs whose process ended before they did: made into bundles with status ``interrupted``."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path

from workbench import events as ev
from workbench.store import log
from workbench.store import record as records
from workbench.store.files import Lock, sync_folder
from workbench.store.ids import is_id
from workbench.store.record import ENDED, Record
from workbench.store.writer import write_bundle

#: Age after which a nameless work folder (of a process killed between two system calls) is removed.
_STALE_S = 3600.0


def partials(root: Path) -> list[str]:
    """Ids of the runs that are being recorded, or were when their process ended."""
    try:
        names = os.listdir(root)
    except OSError:
        return []
    ids = [n.removesuffix(".partial") for n in names if n.endswith(".partial")]
    return sorted(i for i in ids if is_id(i))


def recover(root: Path) -> list[str]:
    """Finish what dead processes left; returns the recovered ids. Never raises."""
    recovered = []
    for run_id in partials(root):
        # Whatever is wrong with one run must not hide the others; its folder stays as it is.
        with contextlib.suppress(Exception):
            if _recover_one(root, run_id):
                recovered.append(run_id)
    _sweep(root)
    return recovered


def _recover_one(root: Path, run_id: str) -> bool:
    folder, final = root / f"{run_id}.partial", root / run_id
    if not (folder / "lock").exists():
        return False
    hold = Lock(folder / "lock")
    try:
        if not hold.acquire() or not folder.is_dir():
            return False
        record = records.read(folder)
        if record.status not in ENDED:
            _rebuild(folder, record)
        folder.rename(final)
        sync_folder(root)
        for name in ("events.log", "lock"):
            with contextlib.suppress(OSError):
                (final / name).unlink()
        return True
    finally:
        hold.release()


def _rebuild(folder: Path, record: Record) -> None:
    from workbench.analysis.frames import effective
    from workbench.analysis.metrics import summarize

    events, _ = log.read(folder / "events.log")
    metrics = summarize(events)
    last = max((e.t_s for e in events), default=0.0)
    events.append(ev.RunEnded(run=record.id, t_s=last, status="interrupted",
                              reason="the process that recorded this run ended",
                              new_tokens=int(metrics["new_tokens"].value or 0)))
    record.status = "interrupted"
    record.error = "the process that recorded this run ended before the run did"
    record.metrics, record.effective = metrics, effective(events)
    record.event_count = len(events)
    record.ended_unix_s = (folder / "events.log").stat().st_mtime
    write_bundle(folder, record, events)


def _sweep(root: Path) -> None:
    """Remove work folders that nobody can be using any more."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(root):
            work = entry.name.startswith(".") and entry.name.endswith((".new", ".trash"))
            if work and time.time() - entry.stat().st_mtime > _STALE_S:
                shutil.rmtree(entry.path, ignore_errors=True)
