"""What a trace says about where time went, as frames; times in microseconds.

Definitions are those of Holistic Trace Analysis where it has one, so that figures can be compared; TKLQT is
SKIP's (total kernel launch and queuing time: from the beginning of a launch call to the beginning of its
kernel).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from workbench.traces import intervals

#: A gap between kernels of one stream shorter than this is the device's own (HTA compares its 30 "ns" with
# the
#: microseconds of the file; real pauses between queued kernels are one to a few microseconds, so it is 30
# us here too).
KERNEL_DELAY_US = 30.0
LAUNCHES = (
    "cudaLaunchKernel",
    "cudaLaunchKernelExC",
    "cuLaunchKernel",
    "cuLaunchKernelEx",
    "cudaMemcpyAsync",
    "cudaMemsetAsync",
    "hipLaunchKernel",
    "hipExtModuleLaunchKernel",
    "hipMemcpyAsync",
    "cudaGraphLaunch",
)
DEVICE_CATS = ("kernel", "gpu_memcpy", "gpu_memset", "Kernel", "Memcpy", "Memset")


def kernels(frame: pl.DataFrame) -> pl.DataFrame:
    """Device work, in order: kernels, copies and fills, with ``kind`` compute, communication or memory."""
    name = pl.col("name").cast(pl.String)
    kind = (
        pl.when(name.str.contains("(?i)nccl|rccl"))
        .then(pl.lit("communication"))
        .when(name.str.contains("(?i)^mem(cpy|set)"))
        .then(pl.lit("memory"))
        .otherwise(pl.lit("compute"))
    )
    found = frame.filter(pl.col("cat").cast(pl.String).is_in(DEVICE_CATS) & pl.col("dur").is_not_null())
    return found.with_columns(end=pl.col("ts") + pl.col("dur"), kind=kind).sort("ts", maintain_order=True)


def host(frame: pl.DataFrame) -> pl.DataFrame:
    """Host ranges (operators, calls, annotations), in order."""
    device = pl.col("cat").cast(pl.String).is_in(DEVICE_CATS)
    return (
        frame.filter(~device & (pl.col("ph") == "X") & pl.col("dur").is_not_null())
        .with_columns(end=pl.col("ts") + pl.col("dur"))
        .sort("ts", maintain_order=True)
    )


def _spans(rows: pl.DataFrame) -> tuple[intervals.Array, intervals.Array]:
    return rows["ts"].to_numpy(), rows["end"].to_numpy()


def devices(frame: pl.DataFrame) -> list[tuple[Any, pl.DataFrame]]:
    """(device, its kernels); a trace without device numbers has one, None."""
    work = kernels(frame)
    return [(key[0], part) for key, part in work.group_by(["device"], maintain_order=True)]


def temporal(frame: pl.DataFrame) -> pl.DataFrame:
    """Per device: span from the first kernel to the last, idle, compute, and what of the rest is not
    hidden."""
    rows = []
    for device, work in devices(frame):
        start, end = _spans(work)
        span, busy = float(end.max() - start.min()), intervals.covered(start, end)
        compute = intervals.covered(*_spans(work.filter(pl.col("kind") == "compute")))
        rows.append(
            {
                "device": device,
                "span_us": span,
                "idle_us": span - busy,
                "compute_us": compute,
                "non_compute_us": busy - compute,
                "idle_share": (span - busy) / span if span else 0.0,
                "compute_share": compute / span if span else 0.0,
            }
        )
    return pl.DataFrame(
        rows,
        schema={
            "device": pl.Int32,
            "span_us": pl.Float64,
            "idle_us": pl.Float64,
            "compute_us": pl.Float64,
            "non_compute_us": pl.Float64,
            "idle_share": pl.Float64,
            "compute_share": pl.Float64,
        },
    )


def overlap(frame: pl.DataFrame) -> pl.DataFrame:
    """Per device: which share of communication runs under compute."""
    rows = []
    for device, work in devices(frame):
        comm = work.filter(pl.col("kind") == "communication")
        if len(comm):
            a, b = _spans(comm), _spans(work.filter(pl.col("kind") == "compute"))
            total = intervals.covered(*a)
            rows.append(
                {
                    "device": device,
                    "communication_us": total,
                    "hidden_us": intervals.overlap(a, b),
                    "hidden_share": intervals.overlap(a, b) / total if total else 0.0,
                }
            )
    return pl.DataFrame(
        rows,
        schema={
            "device": pl.Int32,
            "communication_us": pl.Float64,
            "hidden_us": pl.Float64,
            "hidden_share": pl.Float64,
        },
    )


def by_name(frame: pl.DataFrame) -> pl.DataFrame:
    """Kernels by name: count, sum, mean, least, most; the longest sums first."""
    work = kernels(frame)
    total = work["dur"].sum() or 1.0
    return (
        work.group_by("name", "kind")
        .agg(
            count=pl.len(),
            total_us=pl.col("dur").sum(),
            mean_us=pl.col("dur").mean(),
            min_us=pl.col("dur").min(),
            max_us=pl.col("dur").max(),
            std_us=pl.col("dur").std(),
        )
        .with_columns(share=pl.col("total_us") / total)
        .sort("total_us", descending=True)
    )


def operators(frame: pl.DataFrame) -> pl.DataFrame:
    """Host operators by name with the time that is their own (their children's taken off)."""
    rows = host(frame).filter(
        pl.col("cat").cast(pl.String).is_in(["cpu_op", "Operator", "user_annotation", "cpu_instant_event"])
    )
    if not len(rows):
        rows = host(frame)
    own = self_times(rows)
    return (
        rows.with_columns(own=pl.Series(own))
        .group_by("name")
        .agg(count=pl.len(), total_us=pl.col("dur").sum(), self_us=pl.col("own").sum())
        .sort("self_us", descending=True)
    )


def self_times(rows: pl.DataFrame) -> intervals.Array:
    """Per row its duration less its children's, per thread; rows sorted by start."""
    start, end = _spans(rows)
    own = rows["dur"].to_numpy().astype(np.float64, copy=True)
    thread = (
        (rows["pid"].cast(pl.String) + "/" + rows["tid"].cast(pl.String))
        .cast(pl.Categorical)
        .to_physical()
        .to_numpy()
    )
    order = np.lexsort((-end, start, thread))
    stack: list[int] = []
    last = -1
    ends = end.tolist()
    starts = start.tolist()
    threads = thread.tolist()
    for i in order.tolist():
        if threads[i] != last:
            stack.clear()
            last = threads[i]
        while stack and ends[stack[-1]] <= starts[i]:
            stack.pop()
        if stack:
            own[stack[-1]] -= min(ends[i], ends[stack[-1]]) - starts[i]
        stack.append(i)
    return np.maximum(own, 0.0)


def launches(frame: pl.DataFrame) -> pl.DataFrame:
    """Every launch call with the first kernel that it began: ``call_us`` on the host, ``delay_us`` from the
    call's end to the kernel's beginning, ``wait_us`` from the call's beginning (TKLQT adds these up),
    ``kernel_us`` of work.

    A graph is one launch; ``kernels`` says how many it has."""
    calls = frame.filter(
        pl.col("name").cast(pl.String).is_in(LAUNCHES) & pl.col("correlation").is_not_null()
    ).unique("correlation", keep="first", maintain_order=True)
    work = kernels(frame).filter(pl.col("correlation").is_not_null())
    begun = work.group_by("correlation", maintain_order=True).agg(
        pl.col("name", "kind", "stream", "device", "ts").first(),
        pl.col("end").max(),
        kernel_us=pl.col("dur").sum(),
        kernels=pl.len(),
    )
    joined = calls.select(
        "correlation", call=pl.col("name"), call_ts="ts", call_us=pl.col("dur"), thread="tid"
    ).join(begun, on="correlation", how="inner")
    return joined.with_columns(
        delay_us=pl.col("ts") - pl.col("call_ts") - pl.col("call_us"),
        wait_us=pl.col("ts") - pl.col("call_ts"),
    ).sort("ts")


def idle(frame: pl.DataFrame, delay_us: float = KERNEL_DELAY_US, begun: bool = False) -> pl.DataFrame:
    """Idle time of every stream by cause.

    host: the launch of the next kernel was not through when the last kernel ended; kernel: it was, and the
    gap is the device's own, shorter than ``delay_us``; other: launched in time, yet late (it waited for
    another stream, a copy, an event). ``begun``: HTA's rule, by which a launch counts from the beginning of
    its call on; a gap that a slow launch call makes is then the device's."""
    work = kernels(frame)
    through = pl.col("call_ts") + (0.0 if begun else pl.col("call_us"))
    calls = (
        launches(frame).select("correlation", "stream", through=through).unique(["correlation", "stream"])
    )
    work = work.join(calls, on=["correlation", "stream"], how="left", maintain_order="left")
    work = work.sort("device", "stream", "ts", maintain_order=True).with_columns(
        before=pl.col("end").cum_max().shift(1).over("device", "stream")
    )
    gap = work.filter(pl.col("before").is_not_null()).with_columns(
        gap=(pl.col("ts") - pl.col("before")).clip(0.0)
    )
    # A processor that runs its kernels itself, without launches, is idle for nothing but its own other work.
    hosted = pl.lit(not len(calls)) & pl.col("device").is_null()
    cause = (
        pl.when((pl.col("through") > pl.col("before")) | hosted)
        .then(pl.lit("host"))
        .when(pl.col("gap") < delay_us)
        .then(pl.lit("kernel"))
        .otherwise(pl.lit("other"))
    )
    found = (
        gap.with_columns(cause=cause)
        .group_by("device", "stream", "cause")
        .agg(idle_us=pl.col("gap").sum(), gaps=pl.len())
    )
    total = pl.col("idle_us").sum().over("device", "stream")
    return found.with_columns(share=pl.when(total > 0).then(pl.col("idle_us") / total).otherwise(0.0)).sort(
        "device", "stream", "cause", nulls_last=True
    )


def queue(frame: pl.DataFrame) -> pl.DataFrame:
    """Launched and not yet begun kernels of every stream over time: ``ts``, ``stream``, ``length``."""
    found = launches(frame)
    if not len(found):
        return pl.DataFrame(schema={"ts": pl.Float64, "stream": pl.Int32, "length": pl.Int64})
    steps = pl.concat(
        [
            found.select(pl.col("call_ts").alias("ts"), "stream", step=pl.lit(1, pl.Int64)),
            found.select("ts", "stream", step=pl.lit(-1, pl.Int64)),
        ]
    )
    return (
        steps.sort("ts", "step", descending=[False, True])
        .with_columns(length=pl.col("step").cum_sum().over("stream"))
        .select("ts", "stream", "length")
    )


@dataclass(frozen=True)
class Tklqt:
    """``total_us`` of launch and queuing, ``kernel_us`` of work, over ``kernels``; ``floor_us``: the least
    wait (its 5 % quantile). ``queued``: share of kernels whose launch was through when the one before them
    ended. ``bound``: which of host and device the rest waits for."""

    kernels: int
    total_us: float
    kernel_us: float
    floor_us: float
    queued: float
    bound: str
    reason: str


def tklqt(frame: pl.DataFrame) -> Tklqt:
    """SKIP's measure. While the host is the limit a kernel begins as soon as its launch gets through; once
    the device is, launches queue up behind the kernel before and waits grow."""
    found = launches(frame)
    if not len(found):
        return Tklqt(
            0, 0.0, 0.0, 0.0, 0.0, "", "the trace has no launches that lead to kernels (a CPU-only trace)"
        )
    waits = found["wait_us"].to_numpy()
    before = found.sort("device", "stream", "ts").with_columns(
        before=pl.col("end").cum_max().shift(1).over("device", "stream")
    )
    through = pl.col("call_ts") + pl.col("call_us")
    queued = before.select((through <= pl.col("before")).fill_null(False).mean()).item()
    bound = "device" if queued > 0.5 else "host"
    floor, mean = float(np.quantile(waits, 0.05)), float(waits.mean())
    reason = (
        f"{100 * queued:.0f} % of the kernels were in the queue when the one before them ended, and they "
        "waited "
        f"{mean:,.1f} us on average from launch to beginning"
    )
    return Tklqt(
        len(waits), float(waits.sum()), float(found["kernel_us"].sum()), floor, queued, bound, reason
    )
