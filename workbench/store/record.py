"""``run.json``: what is known of a run besides its events. Plain JSON, never code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from workbench.errors import StoreError
from workbench.events import Metric

#: Raised when a reader of the previous version could misread a bundle.
FORMAT = 1
ENDED = ("done", "cancelled", "failed", "interrupted")


class Record(msgspec.Struct, kw_only=True):
    """``status``: queued running done cancelled failed interrupted. ``requested``: settings as JSON.

    ``advice``: what this run was made to try (``of label changes expects before``), empty for others."""

    format: int = FORMAT
    id: str
    label: str = ""
    prompts: list[str] = []
    created_unix_s: float = 0.0
    ended_unix_s: float = 0.0
    status: str = "queued"
    error: str = ""
    owner: str = ""
    requested: dict[str, Any] = {}
    effective: dict[str, dict[str, Any]] = {}
    environment: dict[str, Any] = {}
    metrics: dict[str, Metric] = {}
    event_count: int = 0
    advice: dict[str, Any] = {}


_decoder = msgspec.json.Decoder(Record)


def dumps(record: Record) -> bytes:
    """Indented UTF-8 JSON."""
    return msgspec.json.format(msgspec.json.encode(record), indent=2)


def cleaned(record: Record) -> Record:
    """The record with text that UTF-8 can hold (a prompt may bring lone surrogates)."""
    try:
        dumps(record)
        return record
    except UnicodeEncodeError:
        return msgspec.convert(_walk(msgspec.to_builtins(record)), Record)


def _walk(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_walk(k): _walk(v) for k, v in value.items()}
    return [_walk(v) for v in value] if isinstance(value, list) else value


def loads(data: bytes, where: str) -> Record:
    """Raises StoreError when it is not a run's record, or one of a later format."""
    try:
        record = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"{where} is damaged ({error}); delete that folder, "
                         "other runs are not affected") from None
    if record.format > FORMAT:
        raise StoreError(f"{where} was written by a later version of the workbench "
                         f"(format {record.format}, this one reads up to {FORMAT}); update it")
    return record


def read(folder: Path) -> Record:
    """The record of a bundle. Raises StoreError with one sentence."""
    path = folder / "run.json"
    try:
        return loads(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise StoreError(f"{folder} is not a run: it has no run.json") from None
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror})") from None
