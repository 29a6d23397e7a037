"""Kernels that report themselves: a ring of records instead of a profiler.

Our own CPU kernels write one record per operation when they are asked to; that costs two readings of
a clock each, so every window can be covered. Any source that can be armed and drained will do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from workbench.telemetry.reduction import Captured, Key, Row, union_of


class OpRecord(NamedTuple):
    """``op``: the operation's number in the source's names; ``layer`` -1: outside layers; times in
    nanoseconds on the source's own clock; ``bytes`` and ``flops`` as the kernel declares them."""

    op: int
    layer: int
    t0_ns: int
    t1_ns: int
    bytes: int
    flops: int


class OpSource(Protocol):
    """Where such records come from."""

    def names(self) -> Mapping[int, str]:
        """Operation number -> name, which :func:`workbench.telemetry.classify.kernel_class` reads."""

    def arm(self) -> None:
        """Empty the ring and record from now on."""

    def drain(self) -> Sequence[OpRecord]:
        """Stop recording; what was recorded since ``arm``, oldest first."""


def reduce_records(records: Sequence[OpRecord], names: Mapping[int, str], wall_s: float | None,
                   most_slices: int = 1000) -> Captured:
    """Rows by layer and operation. The gap is the part of ``wall_s`` that no record covers."""
    # One call made them all, so there was nothing to dispatch.
    captured = Captured(host_events=len(records), dispatched=False)
    if not records:
        return captured
    zero = min(r.t0_ns for r in records)
    for r in records:
        name = names.get(r.op, f"op {r.op}")
        key = Key(r.layer, "", name, "op", "cpu")
        row = captured.rows.setdefault(key, Row(bytes=0, flops=0))
        row.add((r.t1_ns - r.t0_ns) * 1e-9)
        row.bytes, row.flops = (row.bytes or 0) + r.bytes, (row.flops or 0) + r.flops
    span = (max(r.t1_ns for r in records) - zero) * 1e-9
    busy = union_of([(r.t0_ns * 1e-9, r.t1_ns * 1e-9) for r in records])
    captured.wall_s = max(wall_s or 0.0, span)
    captured.gap_s = max(0.0, captured.wall_s - busy)
    longest = sorted(records, key=lambda r: r.t0_ns - r.t1_ns)[:most_slices]
    captured.slices = [(names.get(r.op, f"op {r.op}"), (r.t0_ns - zero) * 1e-9,
                        (r.t1_ns - r.t0_ns) * 1e-9, "CPU", r.layer)
                       for r in sorted(longest, key=lambda r: r.t0_ns)]
    return captured
