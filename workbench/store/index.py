"""The index of finished runs: a SQLite table that only saves opening every folder.

The folders are the truth. Whatever the table misses or has too much is put right when it is read;
when it cannot be used at all (damaged, read-only disk) it is thrown away and the folders are read.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from workbench.errors import StoreError
from workbench.store import record as records
from workbench.store.ids import is_id
from workbench.store.record import Record

_SCHEMA = """CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY, stamp TEXT NOT NULL, label TEXT, status TEXT, created_unix_s REAL,
    owner TEXT, model TEXT, weights TEXT, tok_per_s REAL, record BLOB NOT NULL)"""
_INSERT = "INSERT OR REPLACE INTO runs VALUES (?,?,?,?,?,?,?,?,?,?)"


class Index:
    """``records()`` of one folder of bundles."""

    def __init__(self, root: Path) -> None:
        self.root, self.path = root, root / "index.sqlite"

    def records(self) -> list[Record]:
        """Every finished run, newest first. Damaged folders are left out (see ``damaged``)."""
        stamps = dict(self._folders())
        try:
            found = self._from_table(stamps)
        except sqlite3.Error:
            self._discard()
            try:
                found = self._from_table(stamps)
            except sqlite3.Error:
                found = {i: r for i in stamps if (r := self._read(i)) is not None}
        return [found[i] for i in sorted(found, reverse=True)]

    def damaged(self) -> dict[str, str]:
        """id -> why its folder cannot be read."""
        found = {}
        for run_id, _ in self._folders():
            try:
                records.read(self.root / run_id)
            except StoreError as error:
                found[run_id] = str(error)
        return found

    def _folders(self) -> Iterator[tuple[str, str]]:
        """(id, stamp that changes when run.json changes) of every bundle."""
        try:
            entries = list(os.scandir(self.root))
        except OSError:
            return
        for entry in entries:
            if is_id(entry.name):
                try:
                    stat = os.stat(os.path.join(entry.path, "run.json"))
                except OSError:
                    continue
                yield entry.name, f"{stat.st_mtime_ns}:{stat.st_size}:{stat.st_ino}"

    def _from_table(self, stamps: dict[str, str]) -> dict[str, Record]:
        with contextlib.closing(self._connect()) as table, table:
            rows = {i: (s, blob) for i, s, blob in table.execute("SELECT id, stamp, record FROM runs")}
            found: dict[str, Record] = {}
            for run_id, stamp in stamps.items():
                known = rows.get(run_id)
                record = _decode(known[1], run_id) if known and known[0] == stamp else None
                if record is None:
                    record = self._read(run_id)
                    if record is not None:
                        table.execute(_INSERT, _row(record, stamp))
                if record is not None:
                    found[run_id] = record
            gone = [(i,) for i in rows if i not in stamps]
            table.executemany("DELETE FROM runs WHERE id = ?", gone)
        return found

    def _connect(self) -> sqlite3.Connection:
        table = sqlite3.connect(self.path, timeout=10)
        try:
            table.execute("PRAGMA journal_mode=WAL")
            table.execute("PRAGMA synchronous=NORMAL")
            table.execute(_SCHEMA)
        except sqlite3.Error:
            table.close()
            raise
        return table

    def _read(self, run_id: str) -> Record | None:
        try:
            return records.read(self.root / run_id)
        except StoreError:
            return None

    def _discard(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                Path(f"{self.path}{suffix}").unlink()


def _decode(blob: bytes, run_id: str) -> Record | None:
    try:
        return records.loads(blob, run_id)
    except StoreError:
        return None


def _row(record: Record, stamp: str) -> tuple[object, ...]:
    speed = record.metrics.get("tok_per_s")
    model, weights = record.requested.get("model", {}), record.requested.get("weights", {})
    return (record.id, stamp, record.label, record.status, record.created_unix_s, record.owner,
            str(model.get("source", "")), str(weights.get("name", "")),
            speed.value if speed else None, records.dumps(record))
