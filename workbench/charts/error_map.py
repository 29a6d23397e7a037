"""Where quantization hurts, as a picture; and what the best mixture of schemes costs at every size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from workbench.charts.base import (
    BAD,
    GOOD,
    INK,
    NEUTRAL,
    PALETTE,
    Figure,
    axis,
    empty,
    figure,
    label,
)

#: Values below this share of the largest have the palest colour: below it nothing hurts.
_DECADES = 4.0


def heat(layers: int, parts: Sequence[str], values: Mapping[tuple[int, str], float],
         hover: Mapping[tuple[int, str], str], title: str, unit: str,
         picks: Mapping[tuple[int, str], int] | None = None) -> Figure:
    """Layer by kind of matrix, logarithmic colour. ``values``: (layer, part) -> a number >= 0; missing
    ones stay blank. ``hover``: what stands in the tip, plain text in lines. ``picks``: which of a
    panel's picks a click on a place is."""
    known = [v for v in values.values() if v > 0 and math.isfinite(v)]
    if not known:
        return empty(title, "No error was measured, or every one is zero: these matrices are stored exactly.")
    top = math.log10(max(known))
    low = max(math.log10(min(known)), top - _DECADES)
    keys = [[(i, p) for i in range(layers)] for p in parts]
    z = [[_log(values.get(k), low) for k in row] for row in keys]
    text = [["<br>".join(label(line, 120) for line in hover.get(k, "").split("\n")) for k in row]
            for row in keys]
    ticks = [low + (top - low) * i / 3 for i in range(4)] if top > low else [top]
    trace = {"type": "heatmap", "z": z, "x": list(range(layers)), "y": [label(p, 40) for p in parts],
             "text": text, "hovertemplate": "%{text}<extra></extra>", "colorscale": "Viridis", "zmin": low,
             "zmax": top if top > low else low + 1, "xgap": 1, "ygap": 1,
             "colorbar": {"title": {"text": unit}, "tickvals": ticks,
                          "ticktext": [f"{10 ** t:.1e}" for t in ticks]}}
    made = figure([trace], title, axis("layer", dtick=max(1, layers // 16)), axis(autorange="reversed"),
                  height=max(260, 90 + 30 * len(parts)))
    if picks:
        trace["customdata"] = [[picks.get(k) for k in row] for row in keys]
        made["layout"]["meta"] = {"picks": True}
    return made


def _log(value: float | None, low: float) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return max(low, math.log10(value)) if value > 0 else low


def ladder(curve: Sequence[tuple[float, float]], uniform: Mapping[str, tuple[float, float]],
           chosen: tuple[float, float] | None = None,
           title: str = "The best mixture at every size") -> Figure:
    """``curve``: (bits per weight, summed KL) of the best mixtures; ``uniform``: scheme -> the same with it
    everywhere; ``chosen``: this run's plan."""
    points = [(b, k) for b, k in curve if k > 0]
    if not points:
        return empty(title, "No mixture loses anything: only exact schemes were offered.")
    traces: list[dict[str, object]] = [
        {"type": "scatter", "mode": "lines", "x": [p[0] for p in points], "y": [p[1] for p in points],
         "name": "best mixture", "line": {"color": PALETTE[0], "shape": "hv"},
         "hovertemplate": "%{x:.3g} bits: %{y:.3g} nats<extra></extra>"}]
    same = {n: v for n, v in uniform.items() if v[1] > 0}
    if same:
        traces.append({"type": "scatter", "mode": "markers+text", "x": [v[0] for v in same.values()],
                       "y": [v[1] for v in same.values()], "text": [label(n, 30) for n in same],
                       "textposition": "top right", "name": "one scheme everywhere",
                       "marker": {"color": BAD, "size": 9}, "textfont": {"color": INK},
                       "hovertemplate": "%{text}: %{x:.3g} bits, %{y:.3g} nats<extra></extra>"})
    if chosen is not None and chosen[1] > 0:
        traces.append({"type": "scatter", "mode": "markers", "x": [chosen[0]], "y": [chosen[1]],
                       "name": "this run", "marker": {"color": GOOD, "size": 13, "symbol": "star",
                                                      "line": {"color": NEUTRAL, "width": 1}},
                       "hovertemplate": "this run: %{x:.3g} bits, %{y:.3g} nats<extra></extra>"})
    return figure(traces, title, axis("stored bits per weight (decoder's matrices)"),
                  axis("summed KL, nats per token (estimated)", type="log", exponentformat="power"))
