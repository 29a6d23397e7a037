"""A run as one trace file, out and in: what Perfetto draws, and beside it the run itself, so nothing is lost.

The file is a Chrome trace (JSON object format) with tracks for phases, tokens, drafts, kernels, transfers,
watts and bytes per tier. Its entry ``workbench``, which viewers pass over, holds the record and every event.
"""

from __future__ import annotations

import gzip
import shutil
import zlib
from pathlib import Path
from typing import Any

import msgspec

from workbench import events as ev
from workbench.errors import StoreError
from workbench.store import record as records
from workbench.store.archive import MAX_BYTES
from workbench.store.files import refused, sync_folder, write_atomic
from workbench.store.home import Store
from workbench.store.ids import is_id, new_id
from workbench.store.run import Run

#: Raised when an older reader could misread the entry.
VERSION = 1


class _Held(msgspec.Struct):
    version: int
    record: msgspec.Raw
    events: list[ev.AnyEvent]


class _File(msgspec.Struct):
    workbench: _Held | None = None


def export_trace(run: Run, path: str | Path) -> Path:
    """Write the run as ``path`` (.json or .json.gz, otherwise .json.gz is added). Raises StoreError."""
    from workbench.analysis.trace import chrome_trace

    path = Path(path).expanduser()
    if not path.name.endswith((".json", ".json.gz")):
        path = path.with_name(path.name + ".json.gz")
    if not run.source.ended():
        raise StoreError(f"run {run.id} has not ended; cancel it or wait, then export it")
    events = list(run.events)
    held = {"version": VERSION, "record": msgspec.Raw(records.dumps(run.record)), "events": events}
    text = msgspec.json.encode({**chrome_trace(events, run.label or run.id), "workbench": held})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, gzip.compress(text, 5, mtime=0) if path.suffix == ".gz" else text)
    except OSError as error:
        raise refused(error, "exporting the trace", path.parent) from None
    return path


def import_trace(path: str | Path, store: Store | None = None) -> Run:
    """Add the run of a trace file to the store, under a new id when its own is taken.

    Raises StoreError for a trace of another program (``wb.trace`` opens those) and for a damaged file."""
    from workbench.store.writer import write_bundle

    store, path = store or Store(), Path(path).expanduser()
    held = _read(path)
    record = records.loads(bytes(held.record), f"the record in {path}")
    if not is_id(record.id) or (store.root / record.id).exists():
        record.id = new_id()
    events: list[Any] = held.events
    record.event_count = len(events)
    work, final = store.root / f".{record.id}.new", store.root / record.id
    try:
        work.mkdir(parents=True)
        write_bundle(work, record, events)
        work.rename(final)
        sync_folder(store.root)
    except OSError as error:
        shutil.rmtree(work, ignore_errors=True)
        raise refused(error, "importing the trace", store.root) from None
    return store.open(record.id)


def _read(path: Path) -> _Held:
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            unpacker = zlib.decompressobj(31)
            data = unpacker.decompress(data, MAX_BYTES)
            if unpacker.unconsumed_tail:
                raise StoreError(f"{path} was refused: unpacked it is larger than {MAX_BYTES >> 30} GiB")
        found = msgspec.json.decode(data, type=_File).workbench
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from None
    except (zlib.error, msgspec.DecodeError) as error:
        raise StoreError(f"{path} is damaged or no trace ({error})") from None
    if found is None:
        raise StoreError(f"{path} holds no run of the workbench; `workbench trace {path.name}` analyses it")
    if found.version > VERSION:
        raise StoreError(f"{path} was written by a newer version; update the workbench to import it")
    return found
