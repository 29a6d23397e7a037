"""Level of detail: of a million events a view of some width draws a few thousand marks, and loses no busy
time.

A pyramid is built once: level k merges neighbours of a lane that are closer than 2^k of the base
resolution. A window then takes the finest level whose marks are few enough, so drawing costs the same at
every zoom.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from workbench.traces import intervals

MARK_SCHEMA = {
    "ts": pl.Float64,
    "dur": pl.Float64,
    "lane": pl.Int32,
    "name": pl.String,
    "count": pl.Int64,
    "busy": pl.Float64,
}


class Pyramid:
    """``lanes``: (pid, tid) in order of appearance, one lane each; times in microseconds."""

    def __init__(self, frame: pl.DataFrame, levels: int = 24) -> None:
        rows = (
            frame.filter(pl.col("dur").is_not_null() & (pl.col("ph") == "X"))
            .select(
                "ts",
                "dur",
                "name",
                lane=pl.col("pid").cast(pl.String) + "/" + pl.col("tid").cast(pl.String),
            )
            .sort("ts")
        )
        self.lanes = rows["lane"].unique(maintain_order=True).to_list()
        number = {name: i for i, name in enumerate(self.lanes)}
        lane = (
            rows["lane"].replace_strict(number, return_dtype=pl.Int32)
            if number
            else pl.Series([], dtype=pl.Int32)
        )
        base = rows.with_columns(
            lane=lane, name=pl.col("name").cast(pl.String), count=pl.lit(1, pl.Int64), busy=pl.col("dur")
        ).select(*MARK_SCHEMA)
        self.start = float(base["ts"].min() or 0.0)  # type: ignore[arg-type]
        self.end = float((base["ts"] + base["dur"]).max() or 0.0)  # type: ignore[arg-type, operator]
        self.levels = [base]
        self.resolution = [0.0]
        step = max((self.end - self.start) / (1 << levels), 1e-3)
        for _ in range(levels):
            below = self.levels[-1]
            if len(below) <= 2 * max(1, len(self.lanes)):
                break
            above = _merged(below, step)
            if len(above) < 0.7 * len(below):  # a level that saves little is not worth its memory
                self.levels.append(above)
                self.resolution.append(step)
            step *= 2

    def window(self, start: float, end: float, width: int, max_marks: int = 20_000) -> pl.DataFrame:
        """At most ``max_marks`` marks that touch [start, end] when drawn ``width`` pixels wide: ``ts, dur,
        lane, name, count, busy``. ``count``: events in the mark, ``busy``: their covered time (both 1
        event's where it is one).

        Raises ValueError for an empty window."""
        if not end > start or width < 1:
            raise ValueError("a window needs an end after its start and a width of a pixel or more")
        pixel = (end - start) / width
        first = max((i for i, r in enumerate(self.resolution) if r <= pixel), default=0)
        for level in range(first, len(self.levels)):
            found = _touching(self.levels[level], start, end)
            if len(found) <= max_marks:
                return found
        step = pixel
        while len(found) > max_marks:
            found, step = _merged(found, step), 2 * step
        return found


def _touching(rows: pl.DataFrame, start: float, end: float) -> pl.DataFrame:
    return rows.filter((pl.col("ts") < end) & (pl.col("ts") + pl.col("dur") > start))


def _merged(rows: pl.DataFrame, step: float) -> pl.DataFrame:
    """Marks shorter than ``step`` that lie closer than it, joined per lane; longer ones stay as they are."""
    rows = rows.sort("lane", "ts")
    ts, dur, lane = (rows[c].to_numpy() for c in ("ts", "dur", "lane"))
    end = ts + dur
    small = dur < step
    joined = np.zeros(len(rows), dtype=bool)
    joined[1:] = (
        small[1:]
        & small[:-1]
        & (lane[1:] == lane[:-1])
        & (ts[1:] - end[:-1] < step)
        & (np.floor(ts[1:] / (8 * step)) == np.floor(ts[:-1] / (8 * step)))
    )
    group = np.cumsum(~joined)
    return (
        rows.with_columns(group=pl.Series(group), stop=pl.Series(end))
        .group_by("group", maintain_order=True)
        .agg(
            pl.col("ts").min(),
            pl.col("stop").max(),
            pl.col("lane").first(),
            pl.col("name").sort_by("busy", descending=True).first(),
            pl.col("count").sum(),
            pl.col("busy").sum(),
        )
        .with_columns(
            dur=pl.col("stop") - pl.col("ts"), busy=pl.min_horizontal("busy", pl.col("stop") - pl.col("ts"))
        )
        .select(*MARK_SCHEMA)
    )


def busy(frame: pl.DataFrame) -> float:
    """Microseconds that any mark of a lane covers, summed over lanes: what merging must not shrink."""
    return sum(
        intervals.covered(p["ts"].to_numpy(), (p["ts"] + p["dur"]).to_numpy())
        for _, p in frame.group_by(["lane"])
    )
