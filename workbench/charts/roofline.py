"""The roofline, and what is lost above the floor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workbench.analysis.roofline import Ceilings, Point
from workbench.charts.base import BAD, INK, NEUTRAL, PALETTE, Figure, axis, empty, figure, label

_PHASES = ("prefill", "draft", "verify", "decode")
_NO_POINTS = ("No kernel with known bytes and FLOPs was captured; telemetry.preset=kernels looks at "
              "short runs, too.")
_NO_FLOORS = "No floor is known: this machine's ceilings were not measured (workbench doctor --measure)."


def roofline(points: Sequence[Point], ceilings: Ceilings, title: str = "Roofline") -> Figure:
    """Both axes logarithmic: FLOP per byte, FLOP per second; the line is what was measured here."""
    if not points:
        return empty(title, _NO_POINTS)
    traces: list[dict[str, Any]] = []
    low = min(p.intensity for p in points if p.intensity > 0) / 3
    high = max(p.intensity for p in points) * 3
    if ceilings.ridge and ceilings.bytes_per_s and ceilings.flops_per_s:
        low, high = min(low, ceilings.ridge / 3), max(high, ceilings.ridge * 3)
        corners = [low, ceilings.ridge, high]
        traces.append({
            "type": "scatter", "mode": "lines", "name": "measured ceiling", "x": corners,
            "y": [min(x * ceilings.bytes_per_s, ceilings.flops_per_s) for x in corners],
            "line": {"color": INK, "width": 2}, "hoverinfo": "skip"})
    phases = [p for p in _PHASES if any(q.phase == p for q in points)]
    phases += sorted({p.phase for p in points} - set(_PHASES))
    for i, phase in enumerate(phases):
        own = [p for p in points if p.phase == phase and p.intensity > 0 and p.rate > 0]
        longest = max((p.seconds for p in own), default=1.0)
        traces.append({
            "type": "scatter", "mode": "markers", "name": label(phase),
            "x": [p.intensity for p in own], "y": [p.rate for p in own],
            "customdata": [[label(_name(p)), 1e3 * p.seconds, _percent(p)] for p in own],
            "marker": {"size": [7 + 15 * (p.seconds / longest) ** 0.5 for p in own],
                       "color": PALETTE[i % len(PALETTE)], "opacity": 0.8,
                       "line": {"width": 1, "color": NEUTRAL}},
            "hovertemplate": "%{customdata[0]}<br>%{customdata[1]:.3g} ms per forward, "
                             "%{customdata[2]}<extra>" + label(phase) + "</extra>"})
    return figure(traces, title, axis("FLOP per byte", type="log"), axis("FLOP per second", type="log"),
                  height=400)


def _name(p: Point) -> str:
    where = f"layer {p.layer}" if p.layer >= 0 else p.module
    return f"{p.name}, {where}" if where else p.name


def _percent(p: Point) -> str:
    share = p.share_of_ceiling
    return "ceiling not measured" if share is None else f"{100 * share:.0f} % of the ceiling"


def headroom(points: Sequence[Point], per_token: float, title: str = "Time lost above the floor") -> Figure:
    """Milliseconds per token, longest loss on top. ``per_token``: forwards per token."""
    known = sorted((p for p in points if p.lost_s), key=lambda p: p.lost_s or 0.0)[-12:]
    if not known:
        return empty(title, _NO_FLOORS if points else _NO_POINTS)
    scale = 1e3 * per_token
    names = [label(f"{p.phase}: {_name(p)}", 56) for p in known]
    traces = [
        {"type": "bar", "orientation": "h", "name": name, "y": names, "x": values,
         "marker": {"color": color},
         "hovertemplate": "%{y}: %{x:.3g} ms per token " + name + "<extra></extra>"}
        for name, color, values in (
            ("floor", PALETTE[2], [scale * (p.floor_s or 0.0) for p in known]),
            ("lost", BAD, [scale * (p.lost_s or 0.0) for p in known]))]
    return figure(traces, title, axis("ms per token"), axis(), barmode="stack",
                  height=110 + 26 * len(known))


def by_layer(points: Sequence[Point], title: str = "Layers against their floors") -> Figure:
    """Milliseconds per forward of every layer's known work, by phase; the line is the floor."""
    rows = [p for p in points if p.layer >= 0]
    if not rows:
        return empty(title, _NO_POINTS)
    traces: list[dict[str, Any]] = []
    for i, phase in enumerate(dict.fromkeys(p.phase for p in rows)):
        own = sorted((p for p in rows if p.phase == phase), key=lambda p: p.layer)
        x = [p.layer for p in own]
        traces.append({"type": "bar", "name": label(phase), "x": x,
                       "y": [1e3 * p.seconds for p in own],
                       "marker": {"color": PALETTE[i % len(PALETTE)]},
                       "hovertemplate": "layer %{x}: %{y:.3g} ms<extra>" + label(phase) + "</extra>"})
        if all(p.floor_s is not None for p in own):
            traces.append({"type": "scatter", "mode": "lines", "name": f"{label(phase)} floor", "x": x,
                           "y": [1e3 * (p.floor_s or 0.0) for p in own],
                           "line": {"color": INK, "dash": "dot", "width": 1.5}})
    return figure(traces, title, axis("layer"), axis("ms per forward", rangemode="tozero"),
                  barmode="group")
