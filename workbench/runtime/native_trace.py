"""What the native executor ran, operation by operation, on request.

``Ring`` is a source of records for telemetry: ``arm()`` before a forward, ``drain()`` after it. Off, it
costs one comparison per operation; on, two clock readings (about 0.1 us).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from workbench.kernels.decoder import abi

#: Records kept: a forward of 80 layers makes about a thousand.
CAPACITY = 4096


class Record(NamedTuple):
    """``op``: see :data:`workbench.kernels.decoder.abi.OPERATIONS`; ``layer`` -1 outside the layers;
    times in nanoseconds on ``time.perf_counter``'s clock; the least bytes and FLOPs it needs."""

    op: int
    layer: int
    t0_ns: int
    t1_ns: int
    bytes: int
    flops: int


class Ring:
    """The library's trace ring. One per process is on at a time: the last that was armed."""

    def __init__(self, library: ctypes.CDLL, capacity: int = CAPACITY) -> None:
        self._library, self._capacity = abi.declare(library), capacity
        self._ring = (abi.Record * capacity)()

    def names(self) -> Mapping[int, str]:
        return abi.OPERATIONS

    def arm(self) -> None:
        """Forget what was recorded and record from now on."""
        self._library.wb_trace_set(self._ring, self._capacity)

    def drain(self) -> list[Record]:
        """Stop recording; the records since ``arm``, oldest first (at most ``capacity``)."""
        made = self._library.wb_trace_count()
        self._library.wb_trace_set(None, 0)
        kept = min(made, self._capacity)
        return [Record(r.op, r.layer, r.t0_ns, r.t1_ns, r.bytes, r.flops)
                for r in (self._ring[i % self._capacity] for i in range(made - kept, made))]


@contextmanager
def trace(library: ctypes.CDLL) -> Iterator[list[Record]]:
    """The list that is yielded holds the records of the block once the block has ended."""
    ring, found = Ring(library), []  # type: tuple[Ring, list[Record]]
    ring.arm()
    try:
        yield found
    finally:
        found.extend(ring.drain())
