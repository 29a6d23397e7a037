"""The critical path: walked back from the last event to the first, always to what the present one waited
for.

A kernel waits for the later of two: the end of the kernel before it in its stream, or its launch call. A
host range waits for the range before it on its thread; a synchronizing call for the last kernel that ended
within it. The pieces lie end to end, so they sum to the span; time in which nothing on the path ran is
``waiting``.
"""

from __future__ import annotations

from bisect import bisect_right

import polars as pl

from workbench.traces import measures

#: Times nearer than a nanosecond are one.
_SAME = 1e-3
SYNC = (
    "cudaDeviceSynchronize",
    "cudaStreamSynchronize",
    "cudaEventSynchronize",
    "hipDeviceSynchronize",
    "hipStreamSynchronize",
)


def path(frame: pl.DataFrame) -> pl.DataFrame:
    """Pieces in order: ``ts``, ``dur_us``, ``kind`` (kernel, copy, launch, host, queue, waiting),
    ``name``."""
    # From zero: microseconds since 1970 leave a float no room for nanoseconds.
    origin = float(frame["ts"].min() or 0.0)  # type: ignore[arg-type]
    frame = frame.with_columns(pl.col("ts") - origin)
    work, calls = measures.kernels(frame), measures.launches(frame)
    host = measures.host(frame)
    if len(calls):  # threads that launch nothing (watchers that poll) hold nothing up
        host = host.filter(pl.col("tid").is_in(calls["thread"].unique().implode()))
    rows = [(ts + origin, *rest) for ts, *rest in _Walk(work, calls, host).run()]
    schema = {"ts": pl.Float64, "dur_us": pl.Float64, "kind": pl.String, "name": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row").sort("ts")


def by_kind(pieces: pl.DataFrame) -> pl.DataFrame:
    """The path's time by kind."""
    total = pieces["dur_us"].sum() or 1.0
    return (
        pieces.group_by("kind")
        .agg(total_us=pl.col("dur_us").sum(), pieces=pl.len())
        .with_columns(share=pl.col("total_us") / total)
        .sort("total_us", descending=True)
    )


def _top(host: pl.DataFrame) -> pl.DataFrame:
    """Host ranges that no other range of their thread contains, annotations aside."""
    host = host.filter(
        ~pl.col("cat")
        .cast(pl.String)
        .is_in(["user_annotation", "python_function", "gpu_user_annotation", "Trace", "ac2g"])
    )
    return (
        host.sort("pid", "tid", "ts", "end", descending=[False, False, False, True])
        .with_columns(reach=pl.col("end").cum_max().shift(1).over("pid", "tid"))
        .filter(pl.col("reach").is_null() | (pl.col("end") > pl.col("reach")))
        .sort("ts")
    )


class _Walk:
    def __init__(self, work: pl.DataFrame, calls: pl.DataFrame, host: pl.DataFrame) -> None:
        self.work = (
            work.select("ts", "end", "name", "kind", "stream", "device", "correlation")
            .with_columns(pl.col("name").cast(pl.String))
            .rows()
        )
        self.before: dict[int, int] = {}
        last: dict[tuple[object, object], int] = {}
        for i, row in enumerate(self.work):
            key = (row[5], row[4])
            if key in last:
                self.before[i] = last[key]
            if (
                key not in last or row[1] >= self.work[last[key]][1]
            ):  # the one that ends last frees the stream
                last[key] = i
        self.call = {c: (t, d) for c, t, d in calls.select("correlation", "call_ts", "call_us").rows()}
        syncs = host.filter(pl.col("name").cast(pl.String).is_in(SYNC)).sort("end")
        self.syncs = syncs.select("ts", "end", pl.col("name").cast(pl.String)).rows()
        self.synced = syncs["end"].to_list()
        self.host = (
            _top(host)
            .select("ts", "end", "name", "tid")
            .with_columns(pl.col("name").cast(pl.String))
            .rows()
        )
        self.starts = [row[0] for row in self.host]
        self.reach: list[int] = []  # of the ranges so far, the one that ends last
        for i, row in enumerate(self.host):
            top = self.reach[-1] if self.reach else i
            self.reach.append(i if row[1] >= self.host[top][1] else top)
        ends = sorted((row[1], i) for i, row in enumerate(self.work))
        self.ends, self.ended = [e for e, _ in ends], [i for _, i in ends]
        self.rows: list[tuple[float, float, str, str]] = []
        self.walked: set[int] = set()  # so that a walk ends whatever the times are

    def run(self) -> list[tuple[float, float, str, str]]:
        edges = [r[0] for r in self.work[:1]] + [r[0] for r in self.host[:1]]
        if not edges:
            return []
        first = min(edges)
        finish = max([self.ends[-1]] if self.ends else [first])
        finish = max(finish, max((r[1] for r in self.host), default=first))
        at = finish
        kernel = self.ended[-1] if self.ends and self.ends[-1] >= finish - _SAME else None
        while at > first + _SAME:
            if kernel is not None:
                at, kernel = self._kernel(kernel, at)
            else:
                at, kernel = self._host(at, first)
        return self.rows

    def _add(self, start: float, end: float, kind: str, name: str) -> None:
        if end > start:
            self.rows.append((start, end - start, kind, name))

    def _kernel(self, index: int, at: float) -> tuple[float, int | None]:
        self.walked.add(index)
        start, _, name, kind, *_, correlation = self.work[index]
        start = min(start, at)
        self._add(start, at, "kernel" if kind == "compute" else "copy" if kind == "memory" else kind, name)
        call = self.call.get(correlation)
        before = self.before.get(index)
        freed = self.work[before][1] if before is not None else float("-inf")
        launched = call[0] + call[1] if call else float("-inf")
        if freed >= launched and before is not None and freed > float("-inf"):
            self._add(min(freed, start), start, "queue" if call else "host", "between kernels")
            return min(freed, start), before
        if call:
            self._add(min(launched, start), start, "launch", "from launch to kernel")
            self._add(min(call[0], start), min(launched, start), "launch", "launch call")
            return min(call[0], start), None
        return start, None

    def _host(self, at: float, first: float) -> tuple[float, int | None]:
        """The host range that ends at or covers ``at``; a synchronizing call leads back to a kernel."""
        index = bisect_right(self.starts, at - _SAME) - 1
        if index < 0:
            self._add(first, at, "waiting", "")
            return first, None
        if self.host[index][1] < at - _SAME:
            index = self.reach[index]
        start, end, name, _ = self.host[index]
        if end < at - _SAME:
            self._add(end, at, "host", "between operators")
            at = end
        waited = self._waited(start, at)
        if waited is not None:
            kernel, until, sync = waited
            self._add(until, at, "host", name)
            self._add(self.work[kernel][1], until, "host", sync)
            return min(self.work[kernel][1], at), kernel
        self._add(start, at, "launch" if name in measures.LAUNCHES else "host", name)
        return start, None

    def _waited(self, start: float, at: float) -> tuple[int, float, str] | None:
        """The last synchronizing call in (start, at] that waited for a kernel: that kernel, the call's end,
        its name."""
        i = bisect_right(self.synced, at + _SAME) - 1
        while i >= 0 and self.synced[i] > start:
            began, ended, name = self.syncs[i]
            k = bisect_right(self.ends, ended) - 1
            if k >= 0 and self.ends[k] > began and self.ended[k] not in self.walked:
                return self.ended[k], min(ended, at), name
            i -= 1
        return None
