"""Charts of a profiled module: its parts by time, and each operator against its floor."""

from __future__ import annotations

from collections.abc import Sequence

from workbench.analysis.modules import Part
from workbench.charts.base import NEUTRAL, PALETTE, Figure, axis, empty, figure, label

_BARS = 16


def by_module(parts: Sequence[Part], base: Sequence[Part] = (), names: tuple[str, str] = ("", ""),
              title: str = "Time per forward by module") -> Figure:
    """Horizontal bars, largest first, the baseline's beside them where there is one."""
    if not parts:
        return empty(title, "No forward was profiled: windows=0.")
    kept = list(parts[:_BARS])
    rest = sum(p.seconds for p in parts[_BARS:])
    labels = [label(p.name, 40) for p in kept] + (["all others"] if rest else [])
    values = [1e3 * p.seconds for p in kept] + ([1e3 * rest] if rest else [])
    traces = [_bars(labels, values, names[0], PALETTE[0])]
    if base:
        known = {p.name: p.seconds for p in base}
        theirs = [1e3 * known.get(p.name, 0.0) for p in kept]
        if rest:
            theirs.append(1e3 * sum(s for n, s in known.items() if n not in {p.name for p in kept}))
        traces.append(_bars(labels, theirs, names[1], NEUTRAL))
    return figure(traces, title, axis("ms per forward, under the profiler"),
                  axis(autorange="reversed"), barmode="group", showlegend=bool(base),
                  height=max(240, 60 + 26 * len(labels)))


def _bars(labels: list[str], values: list[float], name: str, color: str) -> dict[str, object]:
    return {"type": "bar", "orientation": "h", "y": labels, "x": values, "name": label(name),
            "marker": {"color": color},
            "hovertemplate": "%{y}: %{x:.3g} ms<extra></extra>"}


def against_floor(parts: Sequence[Part], title: str = "Operators against their floor") -> Figure:
    """Time over floor, both logarithmic; on the diagonal an operator is as fast as memory or the
    arithmetic unit allows, below it the data came from a cache."""
    known = [p for p in parts if p.floor_s > 0 and p.known_s > 0]
    if not known:
        return empty(title, "No floors: this machine's ceilings were not measured; `workbench doctor "
                            "--measure` does it.")
    x, y = [1e6 * p.floor_s for p in known], [1e6 * p.known_s for p in known]
    low, high = min(*x, *y), max(*x, *y)
    diagonal = {"type": "scatter", "mode": "lines", "x": [low, high], "y": [low, high],
                "line": {"color": NEUTRAL, "dash": "dot"}, "name": "the machine's limit",
                "hoverinfo": "skip"}
    points = {"type": "scatter", "mode": "markers", "x": x, "y": y, "name": "operators",
              "text": [label(p.name) for p in known], "marker": {"color": PALETTE[0], "size": 9},
              "hovertemplate": "%{text}: %{y:.3g} µs, floor %{x:.3g} µs<extra></extra>"}
    return figure([diagonal, points], title, axis("floor (µs per forward)", type="log"),
                  axis("time (µs per forward)", type="log"))
