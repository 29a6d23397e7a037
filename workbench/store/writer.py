"""Recording one run: log while it lives, bundle when it ends, all or nothing.

``<id>.partial/`` holds ``run.json``, ``events.log`` and a lock that the operating system drops when
this process ends. Finishing writes the bundle's files into the same folder, flushes them and
renames it to ``<id>``: a bundle is whole or not there.
"""

from __future__ import annotations

import contextlib
import gzip
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from workbench import events as ev
from workbench.errors import StoreError
from workbench.store import record as records
from workbench.store.files import Lock, refused, sync_folder, write_atomic
from workbench.store.log import LogWriter, encode
from workbench.store.record import Record
from workbench.store.run import Run
from workbench.store.sources import Memory

#: Seconds between flushes to the device; a killed process loses nothing, a power failure this much.
_SYNC_S = 2.0


class Writer:
    """Records ``run``. ``add`` never raises: a run goes on when the disk fills, and says so once."""

    def __init__(self, root: Path, record: Record) -> None:
        self._final = root / record.id
        self._folder = root / f"{record.id}.partial"
        self._lock, self._synced = threading.Lock(), time.monotonic()
        self._failure: StoreError | None = None
        record = records.cleaned(record)
        self._log, self._hold = self._create(root, record)
        self.memory = Memory()
        self.run = Run(record, self.memory, self._folder)

    def _create(self, root: Path, record: Record) -> tuple[LogWriter, Lock]:
        aside = root / f".{record.id}.new"
        try:
            root.mkdir(parents=True, exist_ok=True)
            aside.mkdir()
            hold = Lock(aside / "lock")
            hold.acquire()  # before anyone else can see the folder under its real name
            write_atomic(aside / "run.json", records.dumps(record))
            log = LogWriter(aside / "events.log")
            aside.rename(self._folder)
        except OSError as error:
            shutil.rmtree(aside, ignore_errors=True)
            raise refused(error, "recording the run", root) from None
        return log, hold

    def add(self, events: Sequence[ev.Event]) -> None:
        """Append; visible to readers of ``run`` at once, safe from a kill when it returns."""
        if not events:
            return
        with self._lock:
            events, frame = encode(events)
            self.memory.append(events)
            if self._failure is not None:
                return
            try:
                self._log.append(frame)
                if time.monotonic() - self._synced > _SYNC_S:
                    self._log.sync()
                    self._synced = time.monotonic()
            except OSError as error:
                self._failure = refused(error, "recording events", self._folder)
                self.memory.append([ev.Note(run=self.run.id, t_s=events[-1].t_s, level="error",
                                            text=f"{self._failure}; the run goes on in memory")])

    def finish(self, effective: dict[str, dict[str, Any]] | None = None, text: str | None = None,
               metrics: dict[str, ev.Metric] | None = None, *, status: str | None = None,
               error: str = "") -> Run:
        """Write the bundle. What is not given is computed from the events.

        Raises StoreError when the disk refuses; the run then stays readable in this process with
        status ``failed``, and no half of it appears in the store."""
        from workbench.analysis.frames import effective as effective_of
        from workbench.analysis.metrics import summarize

        events = self.memory.events()
        ended = next((e for e in reversed(events) if isinstance(e, ev.RunEnded)), None)
        status = status or (ended.status if ended else "done")
        found = metrics or summarize(events)
        self.add([msgspec.structs.replace(m, run=self.run.id) for m in found.values()])
        record = self.run.record
        record.effective = effective or effective_of(events)
        record.metrics, record.ended_unix_s = found, time.time()
        record.error = error or (ended.reason if ended and ended.status == "failed" else "")
        final = msgspec.structs.replace(record, status=status, event_count=len(self.memory.events()))
        try:
            write_bundle(self._folder, final, self.memory.events(), text)
            self._folder.rename(self._final)
            sync_folder(self._final.parent)
        except OSError as failed:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._abandon(refused(failed, "saving the run", self._final.parent))
        except Exception as failed:  # a bug of ours must neither lose the log nor end the queue
            self._abandon(StoreError(f"saving the run failed inside the workbench ({failed!r}); "
                                     f"its events are kept in {self._folder}"))
        self._release()
        self.run.path, self.run.record = self._final, final
        self.memory.finish()
        return self.run

    def _abandon(self, failure: StoreError) -> None:
        self._release()
        self.run.record.status, self.run.record.error = "failed", str(failure)
        self.run.path = None
        self.memory.finish()
        raise failure

    def _release(self) -> None:
        """Close the log and give the lock up; the bundle needs neither."""
        self._log.close()
        for name in ("events.log", "lock"):
            with contextlib.suppress(OSError):
                (self._final / name).unlink()
        self._hold.release()


def write_bundle(folder: Path, record: Record, events: Sequence[ev.Event],
                 text: str | None = None) -> None:
    """``events.parquet output.txt trace.json.gz`` and, last, ``run.json``. Raises OSError."""
    write_atomic(folder / "events.parquet", parquet(events))
    write_atomic(folder / "output.txt", (output_text(events) if text is None else text)
                 .encode("utf-8", "replace"))
    write_atomic(folder / "trace.json.gz", trace_gz(events, record))
    write_atomic(folder / "run.json", records.dumps(record))
    sync_folder(folder)


def parquet(events: Sequence[ev.Event]) -> bytes:
    """The events as one Parquet table in memory, so that a full disk is one failed write."""
    import io

    from workbench.analysis.frames import wide

    buffer = io.BytesIO()
    wide(events).write_parquet(buffer, compression="zstd", compression_level=3)
    return buffer.getvalue()


def output_text(events: Sequence[ev.Event]) -> str:
    """The generated text; several sequences are separated by a line with their number."""
    parts: dict[int, list[str]] = {}
    for e in events:
        if isinstance(e, ev.Token):
            parts.setdefault(e.sequence, []).append(e.text)
    texts = ["".join(parts[s]) for s in sorted(parts)]
    if len(texts) < 2:
        return texts[0] if texts else ""
    return "\n\n".join(f"--- sequence {i} ---\n{t}" for i, t in enumerate(texts))


def trace_gz(events: Sequence[ev.Event], record: Record) -> bytes:
    """The Perfetto trace, compressed, with the same bytes for the same events."""
    from workbench.analysis.trace import chrome_trace

    trace = chrome_trace(events, title=record.label or record.id)
    return gzip.compress(msgspec.json.encode(trace), compresslevel=5, mtime=0)
