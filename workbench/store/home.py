"""The store: a folder of run bundles and their index."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from workbench.errors import StoreError
from workbench.machine import home
from workbench.settings import Settings
from workbench.store import environment as environments
from workbench.store import record as records
from workbench.store import recovery
from workbench.store.files import refused, write_atomic
from workbench.store.ids import is_id, new_id
from workbench.store.index import Index
from workbench.store.record import Record
from workbench.store.run import Run, Runs
from workbench.store.sources import Table, Tail
from workbench.store.writer import Writer


class Store:
    """Runs in one folder (default: ``runs`` in the workbench's home). Any number of processes may
    use the same folder at once."""

    def __init__(self, root: str | Path | None = None) -> None:
        self.root = Path(root).expanduser().absolute() if root else home().absolute() / "runs"
        self._index = Index(self.root)
        self._writers: dict[str, Writer] = {}

    # -- writing ----------------------------------------------------------------------------

    def record(self, requested: Settings, prompt: str | Sequence[str] = "", label: str = "", *,
               run_id: str | None = None, environment: dict[str, Any] | None = None,
               owner: str = "") -> Writer:
        """Begin a run (status ``queued``). Raises StoreError when the folder cannot be written."""
        now = time.time()
        run_id = run_id or new_id(now)
        if not is_id(run_id):
            raise StoreError(f"{run_id!r} is not a run id; leave it out to get one")
        record = Record(
            id=run_id, label=label or requested.label(), created_unix_s=now, owner=owner,
            prompts=[prompt] if isinstance(prompt, str) else list(prompt),
            requested=requested.to_dict(),
            environment=environments.collect() if environment is None else environment)
        writer = Writer(self.root, record)
        self._writers = {i: w for i, w in self._writers.items() if not w.memory.ended()}
        self._writers[run_id] = writer
        return writer

    # -- reading ----------------------------------------------------------------------------

    def runs(self, owner: str | None = None, *, live: bool = False) -> Runs:
        """Finished runs, newest first; with ``live`` also those being recorded now.

        Runs whose process was killed appear as ``interrupted``."""
        recovery.recover(self.root)
        found = [self._recorded(r) for r in self._index.records()]
        if live:
            found += [r for i in recovery.partials(self.root) if (r := self._partial(i))]
            found.sort(key=lambda r: r.id, reverse=True)
        return Runs(r for r in found if owner is None or r.owner == owner)

    def damaged(self) -> dict[str, str]:
        """id -> why its folder cannot be read; such folders are never touched."""
        return self._index.damaged()

    def open(self, run: str | Path) -> Run:
        """By id, by the beginning of an id, by ``latest``, by label, or by a bundle's path.

        Raises StoreError with one sentence."""
        text = str(run)
        if "/" in text or isinstance(run, Path) or (Path(text) / "run.json").is_file():
            return open_bundle(Path(text))
        if is_id(text) and (self.root / text / "run.json").is_file():
            return self._recorded(records.read(self.root / text))
        known = self.runs(live=True)
        if text == "latest" and known:
            return known[0]
        matches = [r for r in known if r.id.startswith(text)] or [
            r for r in known if r.label == text][:1]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise StoreError(f"{text!r} is the beginning of {len(matches)} run ids; write more "
                             "of it: " + ", ".join(r.id for r in matches[:5]))
        recent = ", ".join(r.id for r in known[:3])
        raise StoreError(f"no run {text!r} in {self.root}; " + (
            f"the latest are {recent}" if recent else "there are no runs yet"))

    def _recorded(self, record: Record) -> Run:
        writer = self._writers.get(record.id)
        if writer is not None and writer.run.path == self.root / record.id:
            return writer.run
        folder = self.root / record.id
        return Run(record, Table(folder), folder)

    def _partial(self, run_id: str) -> Run | None:
        """A run being recorded: ours, or another process's followed through its log."""
        if run_id in self._writers:
            return self._writers[run_id].run
        folder = self.root / f"{run_id}.partial"
        try:
            record = records.read(folder)
        except StoreError:
            return None
        return Run(msgspec.structs.replace(record, status="running"),
                   Tail(folder, self.root / run_id), folder)

    # -- changing ---------------------------------------------------------------------------

    def rename(self, run: Run | str, label: str) -> Run:
        """Give a finished run another label."""
        run = self._mine(run)
        record = records.read(self.root / run.id)
        record.label = label
        try:
            write_atomic(self.root / run.id / "run.json", records.dumps(record))
        except OSError as error:
            raise refused(error, "renaming the run", self.root) from None
        run.record.label = label
        return run

    def delete(self, run: Run | str) -> None:
        """Remove a finished run for good; it disappears in one step."""
        run = self._mine(run)
        trash = self.root / f".{run.id}.trash"
        try:
            (self.root / run.id).rename(trash)
        except OSError as error:
            raise refused(error, "deleting the run", self.root) from None
        shutil.rmtree(trash, ignore_errors=True)

    def _mine(self, run: Run | str) -> Run:
        run = self.open(run) if isinstance(run, str) else run
        if not (self.root / run.id).is_dir():
            raise StoreError(f"run {run.id} is not a finished run of {self.root}")
        return run


def open_bundle(folder: Path) -> Run:
    """A bundle anywhere on disk. Raises StoreError."""
    folder = folder.expanduser().absolute()
    if not folder.is_dir():
        raise StoreError(f"there is no run folder {folder}")
    return Run(records.read(folder), Table(folder), folder)
