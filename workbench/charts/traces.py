"""Charts of a trace: kernels by name, idle time by cause, queue length, the critical path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.charts.base import MAX_POINTS, PALETTE, Figure, axis, empty, figure, label

if TYPE_CHECKING:
    import polars as pl

_CAUSES = {
    "host": ("the host launched late", PALETTE[5]),
    "kernel": ("the device's own pause", PALETTE[7]),
    "other": ("waited for something else", PALETTE[1]),
}
_KINDS = {
    "kernel": PALETTE[0],
    "copy": PALETTE[4],
    "launch": PALETTE[1],
    "host": PALETTE[5],
    "queue": PALETTE[3],
    "communication": PALETTE[2],
    "waiting": PALETTE[7],
}


def by_name(frame: pl.DataFrame, bars: int = 16) -> Figure:
    """Kernels by their summed time, the longest first."""
    title = "Kernel time by name"
    if not len(frame):
        return empty(title, "This trace has no kernels.")
    top = frame.head(bars)
    rest = float(frame["total_us"].slice(bars).sum())
    names = [label(n, 48) for n in top["name"].cast(str).to_list()]
    values = [v / 1e3 for v in top["total_us"].to_list()]
    if rest:
        names.append("all others")
        values.append(rest / 1e3)
    bar = {
        "type": "bar",
        "orientation": "h",
        "y": list(range(len(names))),
        "x": values,
        "text": names,
        "textposition": "none",
        "marker": {"color": PALETTE[0]},
        "hovertemplate": "%{text}: %{x:.4g} ms<extra></extra>",
    }
    ticks = axis(autorange="reversed", tickvals=list(range(len(names))), ticktext=names)
    return figure([bar], title, axis("ms in all"), ticks, height=max(240, 70 + 24 * len(names)))


def idle(frame: pl.DataFrame) -> Figure:
    """Per stream: idle time stacked by cause."""
    title = "Idle time between kernels, by cause"
    if not len(frame):
        return empty(title, "No stream has two kernels.")
    bars = []
    for cause, (words, color) in _CAUSES.items():
        part = frame.filter(frame["cause"] == cause)
        if len(part):
            streams = [f"device {d}, stream {s}" for d, s in part.select("device", "stream").rows()]
            bars.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "name": words,
                    "y": streams,
                    "x": [v / 1e3 for v in part["idle_us"].to_list()],
                    "marker": {"color": color},
                    "hovertemplate": f"%{{y}}: {words} %{{x:.4g}} ms<extra></extra>",
                }
            )
    return figure(bars, title, axis("ms"), axis(), barmode="stack")


def queue(frame: pl.DataFrame) -> Figure:
    """Kernels launched and not begun, over time; the longest of each interval where there are too many
    points."""
    import polars as pl

    title = "Kernels waiting in the queue"
    if not len(frame):
        return empty(title, "No launch leads to a kernel in this trace.")
    lines = []
    start = float(frame["ts"].min())  # type: ignore[arg-type]
    for (stream,), part in frame.group_by(["stream"], maintain_order=True):
        every = max(1, len(part) // MAX_POINTS)
        rows = (
            part.with_columns(bin=pl.int_range(pl.len()) // every)
            .group_by("bin", maintain_order=True)
            .agg(pl.col("ts").first(), pl.col("length").max())
        )
        lines.append(
            {
                "type": "scatter",
                "mode": "lines",
                "line": {"shape": "hv", "width": 1},
                "name": f"stream {stream}",
                "x": [(t - start) / 1e3 for t in rows["ts"].to_list()],
                "y": rows["length"].to_list(),
            }
        )
    return figure(lines, title, axis("ms"), axis("kernels"))


def path(kinds: pl.DataFrame) -> Figure:
    """The critical path's time by kind, as one bar."""
    title = "What the critical path is made of"
    if not len(kinds):
        return empty(title, "This trace has nothing with a duration.")
    bars = [
        {
            "type": "bar",
            "orientation": "h",
            "y": ["path"],
            "x": [row["total_us"] / 1e3],
            "name": row["kind"],
            "marker": {"color": _KINDS.get(row["kind"], PALETTE[6])},
            "hovertemplate": f"{row['kind']}: %{{x:.4g}} ms<extra></extra>",
        }
        for row in kinds.rows(named=True)
    ]
    return figure(bars, title, axis("ms"), axis(visible=False), barmode="stack", height=180)
