"""Trace JSON to columns, a block at a time: memory holds one block of text and the columns, never the file.

Takes an object with ``traceEvents`` or a bare array, gzip or plain; keeps every whole event of a file that
ends in the middle and says how much was left. A block is cut where one event seems to end and the next to
begin; a cut inside an event does not decode and the one before it is tried, so no text is trusted.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import msgspec
import polars as pl

from workbench.errors import Cancelled, TraceError

BLOCK = 4 << 20
#: Characters that begin a file that is read as text; more without an event is no trace.
_HEAD = 64 << 20
_BETWEEN = re.compile(rb"\}\s*,\s*(?=\{)")
_EVENTS = re.compile(rb'"traceEvents"\s*:\s*\[')

Number = int | float | str | None


class Args(msgspec.Struct, rename={"external": "External id"}):
    """The arguments that the analyses need; all others are skipped without being decoded."""

    correlation: Any = None
    external: Any = None
    stream: Any = None
    device: Any = None
    bytes: Any = None
    name: Any = None


class Event(msgspec.Struct):
    """One event; ``args`` of other types than an object are skipped by the slow path."""

    ph: str = "X"
    name: str = ""
    cat: str = ""
    ts: Number = None
    dur: Number = None
    pid: Number = None
    tid: Number = None
    id: Any = None
    args: Args | None = None


SCHEMA = {
    "ph": pl.String,
    "name": pl.String,
    "cat": pl.String,
    "ts": pl.Float64,
    "dur": pl.Float64,
    "pid": pl.String,
    "tid": pl.String,
    "correlation": pl.Int64,
    "external": pl.Int64,
    "stream": pl.Int32,
    "device": pl.Int32,
    "bytes": pl.Int64,
}
_decoder = msgspec.json.Decoder(list[Event])
#: Checks the grammar and makes nothing of it.
_skim = msgspec.json.Decoder(list[msgspec.Raw])


class Columns:
    """What was read: ``frame`` (see SCHEMA, times in microseconds), process and thread names, and what was
    lost."""

    def __init__(self) -> None:
        self.parts: list[pl.DataFrame] = []
        self.names: dict[tuple[str, str], str] = {}  # (pid, tid or "") -> name
        self.head = b""  # what stands before the events: the file's metadata
        self.lost_bytes = 0  # at the end of a file that was cut off
        self.skipped = 0  # events that are no objects or have no time

    def frame(self) -> pl.DataFrame:
        """All events with a time, in the file's order."""
        if not self.parts:
            return pl.DataFrame(schema=SCHEMA).with_columns(
                pl.col("ph", "cat", "name").cast(pl.Categorical)
            )
        return pl.concat(self.parts, rechunk=True)


def read(
    path: Path,
    progress: Callable[[float], None] | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Columns:
    """Read a file. Raises TraceError for what is no trace, Cancelled."""
    try:
        with path.open("rb") as raw:
            return read_stream(raw, path.stat().st_size, str(path), progress, cancelled)
    except OSError as problem:
        raise TraceError(f"cannot read {path}: {problem.strerror or problem}") from None


def read_stream(
    raw: IO[bytes],
    size: int,
    name: str,
    progress: Callable[[float], None] | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Columns:
    """The same of ``size`` bytes from a seekable stream, packed with gzip or not; ``name`` for messages."""
    packed = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    stream = _Unpacked(raw) if packed else raw
    found = Columns()
    for block in _blocks(stream, found, name):
        end = _array_end(block)
        _add(found, block if end is None else block[:end])
        if progress is not None and size:
            progress(min(1.0, raw.tell() / size))
        if cancelled():
            raise Cancelled("cancelled; nothing was changed")
        if end is not None:  # what follows the events is not the analyses' matter
            return found
    return found


def _blocks(stream: IO[bytes] | _Unpacked, found: Columns, path: str) -> Iterator[bytes]:
    """Pieces of the array of events, each a run of whole events without the brackets."""
    text = _begin(stream, found, path)
    ended = False
    while True:
        more = stream.read(BLOCK)
        text += more
        if not more:
            ended = True
        done = 0
        if not ended:
            done = _cut(text)
            if not done:
                if len(text) > _HEAD:
                    raise TraceError(f"{path} has an event longer than {_HEAD >> 20} MiB; it is no trace")
                continue
        if ended:
            yield from _last(text, found)
            return
        yield text[:done]
        text = text[done:].lstrip().lstrip(b",")


class _Unpacked:
    """A gzip stream that gives what it can of a file that was cut off (gzip's own reader drops its last
    block)."""

    def __init__(self, raw: IO[bytes]) -> None:
        self.raw, self.left = raw, b""
        self.unpacker = zlib.decompressobj(31)

    def read(self, size: int) -> bytes:
        found = b""
        while not found:
            packed = self.unpacker.unconsumed_tail or self.left or self.raw.read(1 << 16)
            if not packed:
                return found
            self.left = b""
            try:
                found = self.unpacker.decompress(packed, size)
            except zlib.error:
                return found  # damaged: what was unpacked before stays
            if self.unpacker.eof:  # several packed pieces may follow each other
                self.left, self.unpacker = self.unpacker.unused_data, zlib.decompressobj(31)
        return found


def _begin(stream: IO[bytes] | _Unpacked, found: Columns, path: str) -> bytes:
    """Skips to the first event; what stands before it is kept."""
    text = stream.read(BLOCK).lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"["):
        return text[1:]
    if not text.startswith(b"{"):
        raise TraceError(
            f"{path} is no trace: it must be JSON, an object with traceEvents or an array of events"
        )
    while (at := _EVENTS.search(text)) is None:
        more = stream.read(BLOCK)
        if not more or len(text) > _HEAD:
            raise TraceError(
                f"{path} has no traceEvents; give a trace of PyTorch's profiler, Kineto or Chrome"
            )
        text += more
    found.head = text[: at.start()]
    return text[at.end() :]


def _cut(text: bytes) -> int:
    """Where the last whole event of ``text`` ends, 0 when none does."""
    borders = [m.start() + 1 for m in _BETWEEN.finditer(text, max(0, len(text) - (1 << 18)))]
    for at in reversed(borders[-400:]):
        # Only whether the last events decode matters here, from a border on; one that lies in a name does
        # not decode.
        near = [b for b in borders if b < at and at - b < (1 << 16)][:4] or [at]
        if any(_decodes(text[first:at]) for first in near):
            return at
    return 0


def _decodes(events: bytes) -> bool:
    try:
        _decoder.decode(b"[" + events.lstrip(b", \t\r\n") + b"]")
    except msgspec.ValidationError:
        return True  # well-formed, of another shape
    except msgspec.DecodeError:
        return False
    return True


def _last(text: bytes, found: Columns) -> Iterator[bytes]:
    """The rest of the array, whole or cut off; what follows the array is metadata."""
    body = text.strip()
    end = _array_end(body)
    if end is not None:
        found.head += body[end + 1 :]
        yield body[:end]
        return
    at = _cut(body + b",{")
    found.lost_bytes = len(body) - at
    if at:
        yield body[:at]


def _array_end(block: bytes) -> int | None:
    """Where the bracket stands that closes the array of events, None when that goes on behind ``block``."""
    try:
        _skim.decode(b"[" + block + b"]")
    except msgspec.ValidationError:
        return None
    except msgspec.DecodeError as problem:
        found = re.search(r"trailing characters \(byte (\d+)\)", str(problem))
        return block.rfind(b"]", 0, int(found[1]) - 1) if found else None
    return None


def _add(found: Columns, block: bytes) -> None:
    text = b"[" + block + b"]"
    try:
        events = _decoder.decode(text)
    except msgspec.ValidationError:
        events = _slowly(found, text)
    except msgspec.DecodeError:
        events = _slowly(found, text)
    if not events:
        return
    for e in events:
        if e.ph == "M" and e.args is not None and e.args.name is not None:
            key = (str(e.pid), str(e.tid) if e.name == "thread_name" else "")
            if e.name in ("process_name", "thread_name"):
                found.names[key] = str(e.args.name)
    timed = [e for e in events if e.ts is not None and e.ph != "M"]
    found.skipped += sum(e.ts is None and e.ph != "M" for e in events)
    if timed:
        found.parts.append(_columns(timed))


def _slowly(found: Columns, text: bytes) -> list[Event]:
    """Events one by one: those that have another shape are skipped, and counted."""
    try:
        rows = msgspec.json.decode(text)
    except msgspec.DecodeError:
        found.skipped += 1
        return []
    kept = []
    for row in rows:
        try:
            if isinstance(row, dict) and not isinstance(row.get("args"), dict | None):
                row = {**row, "args": None}
            kept.append(msgspec.convert(row, Event, strict=False))
        except msgspec.ValidationError:
            found.skipped += 1
    return kept


def _columns(events: list[Event]) -> pl.DataFrame:
    none = Args()
    args = [e.args or none for e in events]
    return pl.DataFrame(
        {
            "ph": pl.Series([e.ph for e in events], dtype=pl.Categorical),
            "name": pl.Series([e.name for e in events], dtype=pl.Categorical),
            "cat": pl.Series([e.cat for e in events], dtype=pl.Categorical),
            "ts": _floats([e.ts for e in events]),
            "dur": _floats([e.dur for e in events]),
            "pid": pl.Series([str(e.pid) for e in events], dtype=pl.Categorical),
            "tid": pl.Series([str(e.tid) for e in events], dtype=pl.Categorical),
            "correlation": _integers([a.correlation for a in args], pl.Int64),
            "external": _integers([a.external for a in args], pl.Int64),
            "stream": _integers([a.stream for a in args], pl.Int32),
            "device": _integers([a.device for a in args], pl.Int32),
            "bytes": _integers([a.bytes for a in args], pl.Int64),
        }
    )


def _floats(values: list[Any]) -> pl.Series:
    try:
        return pl.Series(values, dtype=pl.Float64)
    except TypeError:
        return pl.Series([_number(v) for v in values], dtype=pl.Float64)


def _integers(values: list[Any], dtype: Any) -> pl.Series:
    try:
        return pl.Series(values, dtype=dtype)
    except (TypeError, OverflowError):
        return pl.Series(
            [None if (n := _number(v)) is None else int(n) for v in values], dtype=pl.Int64
        ).cast(dtype, strict=False)


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
