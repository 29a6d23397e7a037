"""Where layers lie when they are not on the compute device: one file, or pinned host memory.

A parked layer is one contiguous segment: every parameter and buffer of its modules, each at a
64-byte boundary, the whole rounded up to 4096 bytes so that it can be read past the page cache.
What is parked is what the weights technique packed, so int4 layers travel as int4 bytes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workbench.errors import EngineError, OutOfMemory
from workbench.machine import home
from workbench.units import format_bytes

TENSOR_ALIGN = 64  # what vector loads like
PAGE = 4096  # what O_DIRECT asks of addresses, offsets and lengths
READ_BYTES = 4 << 20  # one read; between two the thread can be stopped


def align(n: int, to: int) -> int:
    return -(-n // to) * to


def aligned_buffer(nbytes: int, device: torch.device, pinned: bool = False) -> torch.Tensor:
    """uint8 [nbytes]; on the host its address is a multiple of :data:`PAGE`."""
    if device.type != "cpu":
        return torch.empty(nbytes, dtype=torch.uint8, device=device)
    raw = torch.empty(nbytes + PAGE, dtype=torch.uint8, pin_memory=pinned)
    return raw[-raw.data_ptr() % PAGE:][:nbytes]


@dataclass(frozen=True)
class Piece:
    """One tensor of a layer: where it belongs and where in the segment it lies."""

    table: dict[str, Any]  # the module's _parameters or _buffers
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    def view(self, buffer: torch.Tensor) -> torch.Tensor:
        flat = buffer[self.offset:self.offset + self.nbytes]
        return flat.view(self.dtype).view(self.shape)


@dataclass(frozen=True)
class Segment:
    """A parked layer: ``nbytes`` of tensors in ``span`` bytes from ``start`` of the store."""

    layer: int
    pieces: tuple[Piece, ...] = field(repr=False)
    nbytes: int
    span: int
    start: int = 0

    @classmethod
    def of(cls, layer: int, module: nn.Module, start: int = 0) -> Segment:
        pieces, offset = [], 0
        for inner in module.modules():
            for table in (inner._parameters, inner._buffers):
                for name, tensor in table.items():
                    if tensor is None or tensor.is_meta:
                        continue
                    size = tensor.numel() * tensor.element_size()
                    pieces.append(Piece(table, name, tensor.dtype, tuple(tensor.shape), offset, size))
                    offset = align(offset + size, TENSOR_ALIGN)
        total = sum(p.nbytes for p in pieces)
        return cls(layer, tuple(pieces), total, align(max(offset, 1), PAGE), start)

    def pack_into(self, buffer: torch.Tensor) -> None:
        for piece in self.pieces:
            piece.view(buffer).copy_(piece.table[piece.name].detach())

    def empty(self) -> None:
        """Leave placeholders of the right shape without memory: use before loading fails loudly."""
        self.point(torch.empty(p.shape, dtype=p.dtype, device="meta") for p in self.pieces)

    def point(self, tensors: Any) -> None:
        for piece, tensor in zip(self.pieces, tensors, strict=True):
            held = piece.table[piece.name]
            if isinstance(held, nn.Parameter) and not isinstance(tensor, nn.Parameter):
                tensor = nn.Parameter(tensor, requires_grad=False)
            piece.table[piece.name] = tensor


@dataclass
class Store:
    """Base of both stores: ``put`` takes a layer's memory away, ``read`` brings it into a buffer."""

    tier = ""
    segments: dict[int, Segment] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return sum(s.span for s in self.segments.values())

    @property
    def slot_bytes(self) -> int:
        return max((s.span for s in self.segments.values()), default=0)

    def put(self, layer: int, module: nn.Module) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class FileStore(Store):
    """An unnamed file under the workbench's home; gone with the process, however it ends.

    ``page_cache`` False reads with O_DIRECT, so the disk is really read each time; where the file
    system refuses that, the pages are dropped after each read (``how`` says which)."""

    tier = "disk"

    def __init__(self, page_cache: bool, folder: Path | None = None) -> None:
        super().__init__()
        self.folder = folder or home() / "scratch"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self.folder, prefix="layers-")  # noqa: SIM115
        except OSError as error:
            raise EngineError(f"the disk tier cannot make a file in {self.folder} "
                              f"({error.strerror}); set WORKBENCH_HOME to a folder that can be "
                              "written") from None
        self.fd = self._file.fileno()
        self.page_cache = page_cache
        self.direct = False
        self._end = 0

    def put(self, layer: int, module: nn.Module) -> None:
        segment = Segment.of(layer, module, self._end)
        buffer = aligned_buffer(segment.span, torch.device("cpu"))
        segment.pack_into(buffer)
        self._write(buffer.numpy().data, segment.start)
        self.segments[layer], self._end = segment, self._end + segment.span
        segment.empty()

    def _write(self, data: memoryview, offset: int) -> None:
        try:
            done = 0
            while done < len(data):
                done += os.pwrite(self.fd, data[done:done + READ_BYTES], offset + done)
            self._forget(offset, len(data), write=True)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OutOfMemory(f"the disk tier is full: {self.folder} has no room for the layers "
                                  f"(after {format_bytes(self._end)}); free some space or set "
                                  "WORKBENCH_HOME to another disk") from None
            raise EngineError(f"writing the layers to {self.folder} failed: "
                              f"{error.strerror or error}") from None

    def _forget(self, offset: int, length: int, write: bool = False) -> None:
        """Drop the pages from the OS's cache (a hint; where it is missing the label says so)."""
        if self.page_cache or not hasattr(os, "posix_fadvise"):
            return
        if write:
            os.fdatasync(self.fd)
        os.posix_fadvise(self.fd, offset, length, os.POSIX_FADV_DONTNEED)

    def seal(self) -> None:
        """All layers are written: from now on it is read. Tries O_DIRECT with one real read."""
        if self.page_cache or not self.segments or not hasattr(os, "O_DIRECT"):
            return
        import fcntl

        with contextlib.suppress(OSError):
            flags = fcntl.fcntl(self.fd, fcntl.F_GETFL)
            fcntl.fcntl(self.fd, fcntl.F_SETFL, flags | os.O_DIRECT)
            try:
                probe = aligned_buffer(PAGE, torch.device("cpu"))
                self.direct = os.preadv(self.fd, [probe.numpy().data], 0) == PAGE
            finally:
                if not self.direct:
                    fcntl.fcntl(self.fd, fcntl.F_SETFL, flags)

    @property
    def how(self) -> str:
        """How the file is read, for the settings report."""
        if self.page_cache:
            return "through the page cache: part of this 'disk' is RAM"
        if self.direct:
            return "O_DIRECT: past the page cache"
        return ("pages dropped after each read (this file system refuses O_DIRECT)"
                if hasattr(os, "posix_fadvise") else "page cache as the OS likes")

    def read(self, layer: int, buffer: memoryview, stopped: Any) -> None:
        """Fill ``buffer`` (page aligned, at least ``span`` long). Raises EngineError."""
        segment = self.segments[layer]
        done = 0
        while done < segment.span and not stopped():
            end = min(done + READ_BYTES, segment.span)
            try:
                count = os.preadv(self.fd, [buffer[done:end]], segment.start + done)
            except OSError as error:
                raise EngineError(f"reading layer {layer} from disk failed: "
                                  f"{error.strerror or error}; run again, or choose "
                                  "tiers=resident") from None
            if count == 0:
                raise EngineError(f"reading layer {layer} from disk ended {segment.span - done} "
                                  "bytes early; run again, or choose tiers=resident")
            done += count
        if not self.direct:
            self._forget(segment.start, segment.span)

    def close(self) -> None:
        self._file.close()
        self.segments.clear()


class HostStore(Store):
    """Pinned host memory, from which a GPU copies while it computes."""

    tier = "ram"

    def __init__(self) -> None:
        super().__init__()
        self.buffers: dict[int, torch.Tensor] = {}

    @property
    def how(self) -> str:
        return "pinned host memory"

    def put(self, layer: int, module: nn.Module) -> None:
        segment = Segment.of(layer, module)
        buffer = aligned_buffer(segment.span, torch.device("cpu"), pinned=True)
        segment.pack_into(buffer)
        self.segments[layer], self.buffers[layer] = segment, buffer
        segment.empty()

    def seal(self) -> None:
        pass

    def close(self) -> None:
        self.buffers.clear()
        self.segments.clear()


class Parking:
    """What loading hands finished layers to: resident ones stay, the others go to the store."""

    def __init__(self, store: FileStore | HostStore, resident: set[int]) -> None:
        self.store, self.resident = store, resident

    def put(self, index: int, layer: nn.Module) -> None:
        if index not in self.resident:
            self.store.put(index, layer)

    def seal(self) -> None:
        self.store.seal()

    def close(self) -> None:
        self.store.close()
