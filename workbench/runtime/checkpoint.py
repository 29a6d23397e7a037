"""Reading safetensors files by tensor, with plain ``preadv``, so that only what is asked for is held.

A file is: 8 bytes little-endian header length, a JSON header ``name -> {dtype, shape,
data_offsets}``, the bytes (https://github.com/huggingface/safetensors, "Format"). A memory map would
count the whole file as resident and turn a truncated file into SIGBUS; ``preadv`` into a fresh tensor
does neither, and every defect becomes one sentence before any tensor is made.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from workbench.errors import ModelError

#: A header longer than this is damage, not data (the format's own limit).
MAX_HEADER_BYTES = 100_000_000
INDEX = "model.safetensors.index.json"
#: One ``preadv`` returns at most 2^31 - 4096 bytes on Linux.
CHUNK_BYTES = 1 << 30

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: ``offset`` from the file's start, ``nbytes`` long."""

    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def _damaged(path: Path, why: str) -> ModelError:
    return ModelError(f"{path} is not a usable safetensors file: {why}; copy or download it again")


def read_header(path: Path) -> dict[str, Entry]:
    """Name -> entry of one file. Raises ModelError for anything that does not add up."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
            if not 2 <= length <= MAX_HEADER_BYTES or 8 + length > size:
                raise _damaged(path, "its first bytes are no header" if size > 8
                               else "it is empty or truncated")
            text = file.read(length)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from None
    try:
        table = json.loads(text)
        return dict(_entries(path, table, 8 + length, size))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _damaged(path, "its header is not the JSON table of the format") from None


def _entries(path: Path, table: dict[str, dict], data: int, size: int
             ) -> Iterator[tuple[str, Entry]]:
    for name, row in table.items():
        if name == "__metadata__":
            continue
        if row["dtype"] not in DTYPES:
            raise _damaged(path, f"tensor {name!r} has the unknown dtype {row['dtype']!r}")
        dtype, shape = DTYPES[row["dtype"]], tuple(int(n) for n in row["shape"])
        begin, end = (int(n) for n in row["data_offsets"])
        if begin < 0 or end - begin != math.prod(shape) * dtype.itemsize:
            raise _damaged(path, f"the size of tensor {name!r} does not match its shape")
        if data + end > size:
            raise _damaged(path, f"it is truncated ({size} bytes, {data + end} expected)")
        yield name, Entry(path, dtype, shape, data + begin, end - begin)


def pread_into(fd: int, buffer: memoryview, offset: int, path: Path) -> None:
    """Fill ``buffer`` from ``offset``. Raises ModelError when the file ends early or cannot be read."""
    done = 0
    while done < len(buffer):
        try:
            count = os.preadv(fd, [buffer[done:done + CHUNK_BYTES]], offset + done)
        except OSError as error:
            raise ModelError(f"reading {path} failed: {error.strerror or error}") from None
        if count == 0:
            raise ModelError(f"{path} ended {len(buffer) - done} bytes early; was it changed while "
                             "the model was being read?")
        done += count


class Checkpoint:
    """The tensors of a folder (one file, or shards with an index), readable by name.

    Only headers are held. ``read`` returns a tensor that owns its memory."""

    def __init__(self, files: list[Path]) -> None:
        self.entries: dict[str, Entry] = {}
        for path in files:
            self.entries.update(read_header(path))
        self._fds: dict[Path, int] = {}

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Raises ModelError where a shard that the index names is missing."""
        index = folder / INDEX
        if index.is_file():
            try:
                names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
            except (ValueError, KeyError, AttributeError):
                raise ModelError(f"{index} is not a valid shard index; copy it again") from None
            missing = [n for n in names if not (folder / n).is_file()]
            if missing:
                raise ModelError(f"{folder} lacks {len(missing)} of {len(names)} weight files, first "
                                 f"{missing[0]}; copy or download the model again")
            return cls([folder / n for n in names])
        files = sorted(folder.glob("*.safetensors"))
        preferred = folder / "model.safetensors"
        return cls([preferred] if preferred in files else files)

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    @property
    def nbytes(self) -> int:
        return sum(e.nbytes for e in self.entries.values())

    def read(self, name: str) -> torch.Tensor:
        """The tensor [shape of the file], CPU, in the file's dtype."""
        entry = self.entries[name]
        out = torch.empty(entry.shape, dtype=entry.dtype)
        if entry.nbytes:
            flat = out.view(-1).view(torch.uint8).numpy().data
            pread_into(self._fd(entry.path), flat, entry.offset, entry.path)
        return out

    def _fd(self, path: Path) -> int:
        if path not in self._fds:
            try:
                self._fds[path] = os.open(path, os.O_RDONLY)
            except OSError as error:
                raise ModelError(f"{path} cannot be read: {error.strerror or error}") from None
        return self._fds[path]

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()
