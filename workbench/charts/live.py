"""Charts that move while a run does: speed, kernels, memory, power, acceptance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from workbench.analysis.rates import rate_of
from workbench.charts.base import (
    BAD,
    GOOD,
    INK,
    PALETTE,
    Figure,
    axis,
    empty,
    figure,
    label,
    note,
    thin,
)

if TYPE_CHECKING:
    import polars as pl

#: Kernel class -> colour, the same in every chart and every run.
CLASSES = {"matmul": PALETTE[0], "attention": PALETTE[1], "norm": PALETTE[2],
           "activation": PALETTE[3], "elementwise": PALETTE[4], "copy": PALETTE[5],
           "sampling": PALETTE[6], "embedding": "#B8A038", "dequant": "#A0522D",
           "shape": "#9FB7C9", "reduction": "#7FBFA5", "other": PALETTE[7]}
#: Part of a tier -> (name, colour).
MEMORY = {"weights_bytes": ("weights", PALETTE[0]), "kv_bytes": ("KV cache", PALETTE[1]),
          "activations_bytes": ("activations", PALETTE[2]), "draft_bytes": ("draft", PALETTE[3]),
          "workspace_bytes": ("workspace", PALETTE[4]), "other_bytes": ("other", PALETTE[7])}
_PHASES = ("load", "prefill", "draft", "verify", "decode", "evaluate", "idle")
_TIERS = {"gpu": "GPU", "ram": "RAM", "disk": "disk"}
_MAX_BARS = 160


def tokens_per_second(tokens: pl.DataFrame | Mapping[str, pl.DataFrame],
                      title: str = "Tokens per second") -> Figure:
    """From ``analysis.tokens``, or several of them by label: mean over half a second."""
    series = dict(tokens) if isinstance(tokens, Mapping) else {"": tokens}
    traces: list[dict[str, Any]] = []
    for i, (name, frame) in enumerate(series.items()):
        points = thin(rate_of(frame["t_s"].to_list()))
        if points:
            traces.append({
                "type": "scatter", "mode": "lines", "name": label(name),
                "x": [p[0] for p in points], "y": [p[1] for p in points],
                "line": {"color": PALETTE[i % len(PALETTE)], "width": 2},
                "hovertemplate": "%{y:.1f} tok/s at %{x:.2f} s<extra></extra>"})
    if not traces:
        return empty(title, "No tokens yet.")
    return figure(traces, title, axis("time (s)"), axis("tok/s", rangemode="tozero"),
                  showlegend=len(traces) > 1)


def kernels_by_phase(kernels: pl.DataFrame, title: str = "Kernels by phase",
                     reason: str = "") -> Figure:
    """From ``analysis.kernels``: time per phase, stacked by class, summed over the capture windows."""
    if kernels.is_empty():
        return empty(title, reason or (
            "No kernels were captured: telemetry is off, or the run was too short for the light "
            "preset. telemetry.preset=kernels looks more often."))
    rows = kernels.group_by(["phase", "cls"]).agg(
        _sum("total_s"), _sum("calls")).rows(named=True)
    found = {(r["phase"], r["cls"]): r for r in rows}
    seen = {p for p, _ in found}
    phases = [p for p in _PHASES if p in seen] + sorted(seen - set(_PHASES))
    classes = [c for c in CLASSES if any(c == k for _, k in found)]
    classes += sorted({c for _, c in found} - set(CLASSES))
    traces = [{
        "type": "bar", "orientation": "h", "name": label(c), "y": [label(p) for p in phases],
        "x": [1e3 * found[p, c]["total_s"] if (p, c) in found else 0.0 for p in phases],
        "customdata": [found[p, c]["calls"] if (p, c) in found else 0 for p in phases],
        "marker": {"color": CLASSES.get(c, PALETTE[7])},
        "hovertemplate": label(c) + ", %{y}: %{x:.3g} ms in %{customdata} calls<extra></extra>",
    } for c in classes]
    kinds = kernels["kind"].unique().to_list()
    what = "CPU operators" if kinds == ["op"] else "GPU kernels" if kinds == ["kernel"] else "kernels"
    return figure(traces, title, axis(f"time of {what} in the capture windows (ms)"),
                  axis(autorange="reversed"), barmode="stack", legend=_below())


def _sum(column: str) -> Any:
    import polars as pl

    return pl.col(column).sum()


def _below() -> dict[str, Any]:
    """A legend under the plot, for charts with many classes."""
    return {"orientation": "h", "y": -0.28, "x": 0, "yanchor": "top", "traceorder": "normal"}


def memory_by_tier(memory: pl.DataFrame, title: str = "Memory per tier") -> Figure:
    """From ``analysis.memory``: one row per tier, its parts stacked over time."""
    import polars as pl

    present = memory["tier"].unique().to_list()
    tiers = [t for t in _TIERS if t in present] + sorted(set(present) - set(_TIERS))
    if not tiers:
        return empty(title, "Memory was not sampled yet.")
    traces: list[dict[str, Any]] = []
    axes: dict[str, Any] = {}
    height = 1 / len(tiers)
    named: set[str] = set()
    for row, tier in enumerate(tiers):
        part = memory.filter(pl.col("tier") == tier)
        scale, unit = _scale(part["total_bytes"].max())
        top = 1 - row * height
        key = "" if row == 0 else str(row + 1)
        axes[f"yaxis{key}"] = axis(f"{_TIERS.get(tier, label(tier))} ({unit})", rangemode="tozero",
                                   domain=[top - height * 0.84, top], anchor="x")
        rows = thin(part.rows(named=True))
        for column, (name, color) in MEMORY.items():
            values = [r[column] / scale for r in rows]
            if any(values):
                traces.append({
                    "type": "scatter", "mode": "lines" if len(rows) > 3 else "lines+markers",
                    "stackgroup": tier, "name": name,
                    "legendgroup": name, "showlegend": name not in named,
                    "x": [r["t_s"] for r in rows], "y": values, "yaxis": f"y{key}",
                    "line": {"width": 0.5, "color": color, "shape": "hv"}, "fillcolor": color,
                    "hovertemplate": f"{name} %{{y:.3g}} {unit}<extra></extra>"})
                named.add(name)
    return figure(traces, title, axis("time (s)", anchor=f"y{key}"), axes.pop("yaxis"),
                  hovermode="x unified", legend=_below(), **axes)


def _scale(largest: Any) -> tuple[float, str]:
    size = float(largest or 0)
    return (1 << 30, "GiB") if size >= 1 << 30 else (1 << 20, "MiB")


def power(power: pl.DataFrame, sensors: pl.DataFrame | None = None, title: str = "Power") -> Figure:
    """From ``analysis.power`` (and ``analysis.sensors`` for the reasons): watts per sensor.

    Estimated series are dashed and say so."""
    import polars as pl

    usable = power.filter(pl.col("w").is_not_null())
    if usable.is_empty():
        return empty(title, _no_power(sensors))
    traces: list[dict[str, Any]] = []
    estimated = False
    keys = usable.select("device", "source", "quality").unique(maintain_order=True).rows()
    for i, (device, source, quality) in enumerate(keys):
        part = usable.filter((pl.col("device") == device) & (pl.col("source") == source)
                             & (pl.col("quality") == quality))
        points = thin(part.select("t_s", "w").rows())
        guess = quality != "measured"
        estimated |= guess
        traces.append({
            "type": "scatter", "mode": "lines+markers" if len(points) < 40 else "lines",
            "name": label(f"{device}, {source}" + (" (estimated)" if guess else "")),
            "x": [p[0] for p in points], "y": [p[1] for p in points],
            "line": {"color": PALETTE[i % len(PALETTE)], "width": 2,
                     "dash": "dash" if guess else "solid", "shape": "hv"},
            "hovertemplate": "%{y:.1f} W at %{x:.2f} s<extra></extra>"})
    marks = [note("estimated from a model of the machine, not measured", x=0, y=0, xanchor="left",
                  yanchor="bottom")] if estimated else []
    return figure(traces, title, axis("time (s)"), axis("W", rangemode="tozero"), showlegend=True,
                  legend=_below(), annotations=marks)


def _no_power(sensors: pl.DataFrame | None) -> str:
    if sensors is not None and not sensors.is_empty():
        rows = sensors.filter(~sensors["available"]).rows(named=True)
        reasons = list(dict.fromkeys(f"{r['device']}: {r['reason']}" for r in rows if r["reason"]))
        if reasons:
            return "Power is not available. " + "; ".join(reasons)
        return "The power sensor has not given a reading yet."
    return "Power is not available: no sensor has given a reading."


def acceptance(drafts: pl.DataFrame, title: str = "Draft acceptance") -> Figure:
    """From ``analysis.drafts``: accepted and rejected tokens of every verification.

    Long runs are shown as means over groups of steps."""
    if drafts.is_empty():
        return empty(title, "Nothing was drafted: plain decoding emits one token per forward.")
    rows = drafts.select("step", "accepted", "drafted", "emitted").rows()
    size = -(-len(rows) // _MAX_BARS)
    groups = [rows[i:i + size] for i in range(0, len(rows), size)]
    x = [g[0][0] for g in groups]
    kept = [sum(r[1] for r in g) / len(g) for g in groups]
    lost = [sum(r[2] - r[1] for r in g) / len(g) for g in groups]
    drafted, accepted = sum(r[2] for r in rows), sum(r[1] for r in rows)
    length = sum(r[3] for r in rows) / len(rows)
    rate = f"{100 * accepted / drafted:.0f} % accepted, " if drafted else ""
    traces = [
        {"type": "bar", "name": name, "x": x, "y": y, "marker": {"color": color, "line": {"width": 0}},
         "hovertemplate": f"step %{{x}}: %{{y:.3g}} {name}<extra></extra>"}
        for name, y, color in (("accepted", kept, GOOD), ("rejected", lost, BAD))]
    return figure(
        traces, title, axis("step" if size == 1 else f"step (means of {size})"),
        axis("drafted tokens"), barmode="stack", bargap=0.1, legend=_below(), annotations=[note(
            f"{rate}{length:.2f} tokens per verification", x=0, y=1.02, xanchor="left",
            yanchor="bottom", font={"size": 12, "color": INK})])
