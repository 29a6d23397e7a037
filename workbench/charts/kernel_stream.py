"""Kernels by layer, and what moved against a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workbench.analysis.kernel_stream import Mover
from workbench.charts.base import BAD, GOOD, PALETTE, Figure, axis, empty, figure, label
from workbench.charts.live import CLASSES


def by_layer(found: Mapping[tuple[str, int], Mapping[str, float]], phase: str, title: str = "") -> Figure:
    """Milliseconds per forward of every layer, stacked by class; -1 is what lies outside layers."""
    title = title or f"Layers, {phase}"
    rows = {layer: classes for (p, layer), classes in found.items() if p == phase}
    if not rows:
        return empty(title, f"No kernel window of phase {phase}.")
    layers = sorted(rows)
    ticks = ["outside" if n < 0 else str(n) for n in layers]
    names = [c for c in CLASSES if any(c in r for r in rows.values())]
    names += sorted({c for r in rows.values() for c in r} - set(CLASSES))
    traces: list[dict[str, Any]] = [{
        "type": "bar", "name": label(c), "x": list(range(len(layers))),
        "y": [1e3 * rows[n].get(c, 0.0) for n in layers],
        "marker": {"color": CLASSES.get(c, PALETTE[7])},
        "hovertemplate": label(c) + ", layer %{x}: %{y:.3g} ms<extra></extra>"} for c in names]
    return figure(traces, title, axis("layer", tickmode="array", tickvals=list(range(len(layers))),
                                      ticktext=ticks, showgrid=False),
                  axis("ms per forward under the profiler"), barmode="stack")


def movers(found: Sequence[Mover], title: str = "Top movers against the baseline") -> Figure:
    """Change per forward, milliseconds; red takes longer."""
    rows = [m for m in found if m.before is not None and abs(m.change) > 1e-7][:12][::-1]
    if not rows:
        return empty(title, "Pin a run with kernel windows as the baseline to see what moved.")
    names = [label(f"{m.phase}: {m.name}" + (f", {m.module}" if m.module else ""), 56) for m in rows]
    return figure([{
        "type": "bar", "orientation": "h", "y": names, "x": [1e3 * m.change for m in rows],
        "marker": {"color": [BAD if m.change > 0 else GOOD for m in rows]},
        "hovertemplate": "%{y}: %{x:+.3g} ms per forward<extra></extra>"}], title,
        axis("ms per forward"), axis(), showlegend=False, height=110 + 26 * len(rows))
