"""Events as columns: one wide table for a whole run, one narrow table per record type.

Every function accepts any iterable of events, in arrival order, and returns a polars frame whose
schema is the same when there are no rows. Times are seconds, sizes bytes, powers watts.
"""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from workbench import events as ev

if TYPE_CHECKING:
    import polars as pl

#: Where two record types give one name different types, the wide column takes the wider one.
_WIDTH = (bool, int, float, str)


@functools.cache
def fields(cls: type[ev.Event]) -> dict[str, type]:
    """field name -> scalar type, ``None`` stripped; the tag is not a field."""
    hints = typing.get_type_hints(cls)
    return {f.name: _scalar(hints[f.name]) for f in msgspec.structs.fields(cls)}


@functools.cache
def _optional(cls: type[ev.Event]) -> frozenset[str]:
    """Fields whose value may be None."""
    hints = typing.get_type_hints(cls)
    return frozenset(n for n, h in hints.items() if type(None) in typing.get_args(h))


def _scalar(hint: Any) -> type:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        hint = next(a for a in typing.get_args(hint) if a is not type(None))
    return typing.cast(type, hint)


@functools.cache
def wide_fields() -> dict[str, type]:
    """Column -> type of the wide table: ``type`` first, then every field of every record."""
    columns: dict[str, type] = {"type": str}
    for cls in ev.TYPES.values():
        for name, kind in fields(cls).items():
            columns[name] = max(columns.get(name, kind), kind, key=_WIDTH.index)
    return columns


def _dtype(kind: type) -> Any:
    import polars as pl

    return {bool: pl.Boolean, int: pl.Int64, float: pl.Float64, str: pl.String}[kind]


def tag(event: ev.Event) -> str:
    """The record's type as it is written, e.g. ``token``."""
    return str(type(event).__struct_config__.tag)


def wide(events: Iterable[ev.Event]) -> pl.DataFrame:
    """All events in one sparse table, one row each, in order; :func:`from_wide` inverts it."""
    import polars as pl

    events = list(events)
    present = {tag(e): type(e) for e in events}
    names = ["type", *dict.fromkeys(n for c in present.values() for n in fields(c))]
    data: dict[str, list[Any]] = {n: [None] * len(events) for n in names}
    by_type = {c: [(data[n], n) for n in fields(c)] for c in present.values()}
    kinds = data["type"]
    for row, event in enumerate(events):
        kinds[row] = type(event).__struct_config__.tag
        for column, name in by_type[type(event)]:
            column[row] = getattr(event, name)
    columns = wide_fields()
    series = [pl.Series(n, _fit(v, columns[n]), dtype=_dtype(columns[n])) for n, v in data.items()]
    frame = pl.DataFrame(series) if series else pl.DataFrame()
    missing = [pl.lit(None, dtype=_dtype(k)).alias(n) for n, k in columns.items() if n not in data]
    return frame.with_columns(missing).select(list(columns))


def _fit(values: list[Any], kind: type) -> list[Any]:
    """Values as ``kind`` where the wide column is wider than the record's field."""
    return [None if v is None else kind(v) for v in values] if kind in (float, str) else values


def from_wide(frame: pl.DataFrame) -> list[ev.Event]:
    """The events of a wide table. Record types that this version does not know are skipped."""
    import polars as pl

    found: list[tuple[int, ev.Event]] = []
    rows = frame.with_row_index("_row")
    for name in rows["type"].unique(maintain_order=True).to_list():
        cls = ev.TYPES.get(name)
        if cls is None:
            continue
        part = rows.filter(pl.col("type") == name)
        kinds = {n: k for n, k in fields(cls).items() if n in part.columns}
        optional = _optional(cls)
        columns = [_unfit(part[n].to_list(), k) for n, k in kinds.items()]
        names = list(kinds)
        for row, values in zip(part["_row"].to_list(), zip(*columns, strict=True), strict=True):
            given = {n: v for n, v in zip(names, values, strict=True)
                     if v is not None or n in optional}
            try:
                found.append((row, cls(**given)))
            except TypeError:  # a record of another version that lacks a required field
                continue
    return [event for _, event in sorted(found, key=lambda pair: pair[0])]


def _unfit(values: list[Any], kind: type) -> list[Any]:
    return [None if v is None else kind(v) for v in values] if kind in (bool, int) else values


def of(events: Iterable[ev.Event], cls: type[ev.Event]) -> pl.DataFrame:
    """The events of one type as a frame with that type's columns."""
    import polars as pl

    kinds = fields(cls)
    chosen = [e for e in events if type(e) is cls]
    return pl.DataFrame([pl.Series(n, [getattr(e, n) for e in chosen], dtype=_dtype(k))
                         for n, k in kinds.items()])


def tokens(events: Iterable[ev.Event]) -> pl.DataFrame:
    """Emitted tokens, with ``burst`` (stream event they arrived in) and ``gap_s`` since the one before.

    Under speculation several tokens share a burst; ``gap_s`` is None within a burst."""
    import polars as pl

    frame = of(events, ev.Token)
    burst: list[int] = []
    gap: list[float | None] = []
    last: dict[int, tuple[int, float, int]] = {}
    count = 0
    for t, step, sequence in zip(frame["t_s"], frame["step"], frame["sequence"], strict=True):
        before = last.get(sequence)
        if before is not None and same_burst(before[0], before[1], step, t):
            number, arrived = before[2], before[1]
            gap.append(None)
        else:
            number, arrived, count = count, t, count + 1
            gap.append(None if before is None else t - before[1])
        burst.append(number)
        last[sequence] = (step, arrived, number)
    return frame.with_columns(pl.Series("burst", burst, dtype=pl.Int64),
                              pl.Series("gap_s", gap, dtype=pl.Float64))


def same_burst(step_a: int, t_a: float, step_b: int, t_b: float) -> bool:
    """Whether two tokens of one sequence reached the reader together: one step, or one instant."""
    return (step_a == step_b and step_a > 0) or abs(t_b - t_a) < 1e-6


def phases(events: Iterable[ev.Event]) -> pl.DataFrame:
    """Intervals of model work, with ``duration_s``."""
    import polars as pl

    return of(events, ev.Phase).with_columns(
        (pl.col("end_s") - pl.col("start_s")).alias("duration_s"))


def drafts(events: Iterable[ev.Event]) -> pl.DataFrame:
    """One row per verification, with ``rate`` = accepted / drafted (None where nothing was drafted)."""
    import polars as pl

    return of(events, ev.Draft).with_columns(
        pl.when(pl.col("drafted") > 0).then(pl.col("accepted") / pl.col("drafted")).alias("rate"))


def memory(events: Iterable[ev.Event]) -> pl.DataFrame:
    """Bytes per tier over time, with ``other_bytes``: the total less the parts the runtime knows."""
    import polars as pl

    parts = sum((pl.col(c) for c in MEMORY_PARTS), pl.lit(0))
    return of(events, ev.Memory).with_columns(
        (pl.col("total_bytes") - parts).clip(lower_bound=0).alias("other_bytes"))


MEMORY_PARTS = ("weights_bytes", "kv_bytes", "activations_bytes", "draft_bytes", "workspace_bytes")


def power(events: Iterable[ev.Event]) -> pl.DataFrame:
    """Sensor readings, with ``w``: the instant field where there is one, else the averaged one."""
    import polars as pl

    return of(events, ev.Power).with_columns(
        pl.coalesce(["instant_w", "average_w"]).alias("w"))


def sensors(events: Iterable[ev.Event]) -> pl.DataFrame:
    """What each power source can and cannot do here; the last word of each."""
    return of(events, ev.SensorStatus).unique(["device", "source"], keep="last",
                                              maintain_order=True)


def transfers(events: Iterable[ev.Event]) -> pl.DataFrame:
    """Copies between tiers, with ``duration_s`` and ``bytes_per_s``."""
    import polars as pl

    return of(events, ev.Transfer).with_columns(
        (pl.col("end_s") - pl.col("start_s")).alias("duration_s")).with_columns(
        pl.when(pl.col("duration_s") > 0).then(pl.col("bytes") / pl.col("duration_s"))
        .alias("bytes_per_s"))


def kernels(events: Iterable[ev.Event], by: Sequence[str] = ("phase", "name", "kind", "cls", "device")
            ) -> pl.DataFrame:
    """The kernel table over all windows: calls, total, mean, min, max, share, floor, floor_fraction.

    ``by``: what one row stands for; add ``"layer"`` or ``"window"`` for a finer table. ``bytes
    flops floor_s`` are None unless every merged row has them; ``floor_fraction`` = floor / total
    (1: at the floor)."""
    import polars as pl

    frame = of(events, ev.Kernel)
    table = frame.group_by(list(by), maintain_order=True).agg(
        pl.col("calls").sum(), pl.col("total_s").sum(), pl.col("min_s").min(),
        pl.col("max_s").max(), *(
            pl.when(pl.col(c).null_count() == 0).then(pl.col(c).sum()).alias(c)
            for c in ("bytes", "flops", "floor_s")))
    whole = table["total_s"].sum() or 1.0
    return table.with_columns(
        (pl.col("total_s") / pl.col("calls").clip(lower_bound=1)).alias("mean_s"),
        (pl.col("total_s") / whole).alias("share"),
        pl.when(pl.col("total_s") > 0).then(pl.col("floor_s") / pl.col("total_s"))
        .alias("floor_fraction")).sort("total_s", descending=True)


def effective(events: Iterable[ev.Event]) -> dict[str, dict[str, Any]]:
    """path -> requested, effective, honoured, reason; the last word on each path."""
    return {e.path: {"requested": e.requested, "effective": e.effective,
                     "honoured": e.honoured, "reason": e.reason}
            for e in events if isinstance(e, ev.Effective)}
