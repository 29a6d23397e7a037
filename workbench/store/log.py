"""The append-only event log of a run that is not finished yet.

A file of frames: 4 bytes length, 4 bytes CRC-32 (both little-endian), then a msgpack array of
events. One frame per ``append``. What a crash leaves half-written at the end is recognized by its
length or checksum and dropped; everything before it is whole. The operating system holds what was
appended when a process is killed; ``sync`` is for power failures.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from workbench import events as ev

_HEAD = struct.Struct("<II")
#: A longer frame is taken for garbage. 100,000 events with text are about 15 MiB.
_MAX_FRAME_BYTES = 1 << 30
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[msgspec.Raw])
_event = msgspec.msgpack.Decoder(ev.AnyEvent)


class LogWriter:
    """Appends events to one file. Not safe to share between threads without a lock."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - closed by close()

    def append(self, body: bytes) -> None:
        """One frame. Raises OSError; a torn frame is cut off again where the disk allows it."""
        frame = _HEAD.pack(len(body), zlib.crc32(body)) + body
        start = self._file.tell()
        view = memoryview(frame)
        try:
            while view:
                view = view[self._file.write(view):]
        except OSError:
            os.ftruncate(self._file.fileno(), start)
            raise

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def encode(events: Sequence[ev.Event]) -> tuple[list[ev.Event], bytes]:
    """The events and their frame; lone surrogates, which no file can hold, become U+FFFD in both."""
    kept = list(events)
    try:
        return kept, _encoder.encode(kept)
    except UnicodeEncodeError:
        kept = [clean(e) for e in kept]
        return kept, _encoder.encode(kept)


def clean(event: ev.Event) -> ev.Event:
    """The event with text that UTF-8 can hold."""
    texts = {f: v.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
             for f in event.__struct_fields__ if isinstance(v := getattr(event, f), str)}
    return msgspec.structs.replace(event, **texts)


def read(path: Path, offset: int = 0) -> tuple[list[ev.Event], int]:
    """The whole frames from ``offset`` on, and the offset behind the last of them.

    A missing file is an empty log. Events of unknown types are skipped."""
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return [], offset
    events: list[ev.Event] = []
    at = 0
    while at + _HEAD.size <= len(data):
        length, crc = _HEAD.unpack_from(data, at)
        body = data[at + _HEAD.size:at + _HEAD.size + length]
        if length > _MAX_FRAME_BYTES or len(body) < length or zlib.crc32(body) != crc:
            break
        events += _decode(body)
        at += _HEAD.size + length
    return events, offset + at


def _decode(body: bytes) -> list[ev.Event]:
    found: list[ev.Event] = []
    for raw in _decoder.decode(body):
        try:
            found.append(_event.decode(raw))
        except msgspec.ValidationError:
            continue
    return found
