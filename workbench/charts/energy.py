"""Charts of joules: by phase, by kernel class, over power caps, over a row of servers, of a fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workbench.analysis.energy_phases import PhaseEnergy
from workbench.analysis.energy_shares import Share
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
    note,
    thin,
)


def energy_by_phase(phases: Sequence[PhaseEnergy], title: str = "J per token, by phase") -> Figure:
    """From ``analysis.energy_phases``: bars with one standard deviation, the whole and above idle."""
    known = [p for p in phases if p.per_token is not None]
    if not known:
        return empty(title, next((p.reason for p in phases if p.reason), "No phase has an energy."))
    names = [f"{p.phase} ({'prompt' if p.phase == 'prefill' else 'new'} tokens)" for p in known]
    both = all(p.net_per_token is not None for p in known)
    series = [("whole", PALETTE[0], [p.per_token for p in known])]
    if both:
        series.append(("above idle", PALETTE[2], [p.net_per_token for p in known]))
    traces: list[dict[str, Any]] = [{
        "type": "bar", "name": name, "x": [label(n) for n in names],
        "y": [j.value if j else None for j in joules],
        "error_y": {"type": "data", "array": [j.se if j else None for j in joules], "color": INK,
                    "thickness": 1.2, "width": 4},
        "marker": {"color": color},
        "hovertemplate": "%{x}: %{y:.3g} J/token<extra>" + name + "</extra>"}
        for name, color, joules in series]
    return figure(traces, title, axis(), axis("J per token", rangemode="tozero"), barmode="group",
                  showlegend=both)


def energy_shares(shares: Sequence[Share], title: str = "J per token, by kernel class",
                  most: int = 12) -> Figure:
    """From ``analysis.energy_shares``: bars by time share; the whisker is what idle power and the
    sensor's peak allow, because no sensor resolves a kernel."""
    known = [s for s in shares if s.per_token is not None][:most]
    if not known:
        return empty(title, "No kernels were captured beside the power, so its joules cannot be divided.")
    return figure([{
        "type": "bar", "orientation": "h", "y": [label(f"{s.phase}: {s.name}") for s in known],
        "x": [s.per_token for s in known],
        "error_x": {"type": "data", "symmetric": False, "color": INK, "thickness": 1.2, "width": 3,
                    "array": [(s.high_j - s.joules) / s.tokens for s in known],
                    "arrayminus": [(s.joules - s.low_j) / s.tokens for s in known]},
        "customdata": [100 * s.share for s in known],
        "marker": {"color": PALETTE[1]},
        "hovertemplate": "%{y}: %{x:.3g} J/token, %{customdata:.1f} % of the phase's time"
                         "<extra></extra>"}],
        title, axis("J per token (whisker: idle power to peak power)", rangemode="tozero"),
        axis(autorange="reversed"), showlegend=False, height=max(260, 60 + 26 * len(known)))


def power_sweep(points: Sequence[dict[str, Any]], knee: float | None = None,
                title: str = "J per token over the power cap") -> Figure:
    """One point per setting: ``value`` (W or MHz), ``unit``, ``j_per_token``, ``se``, ``tok_per_s``."""
    known = [p for p in points if p.get("j_per_token") is not None]
    if not known:
        return empty(title, "No setting was measured.")
    x = [p["value"] for p in known]
    traces: list[dict[str, Any]] = [
        {"type": "scatter", "mode": "lines+markers", "name": "J/token", "x": x,
         "y": [p["j_per_token"] for p in known], "line": {"color": PALETTE[0], "width": 2},
         "error_y": {"type": "data", "array": [p.get("se") for p in known], "color": PALETTE[0]},
         "hovertemplate": "%{x:.0f}: %{y:.3g} J/token<extra></extra>"},
        {"type": "scatter", "mode": "lines+markers", "name": "tok/s", "x": x, "yaxis": "y2",
         "y": [p.get("tok_per_s") for p in known],
         "line": {"color": PALETTE[1], "width": 2, "dash": "dot"},
         "hovertemplate": "%{x:.0f}: %{y:.3g} tok/s<extra></extra>"}]
    shapes = [] if knee is None else [{"type": "line", "x0": knee, "x1": knee, "yref": "paper", "y0": 0,
                                       "y1": 1, "line": {"color": GOOD, "dash": "dash", "width": 1}}]
    marks = [] if knee is None else [note("knee", x=knee, xref="x", y=1.0, yanchor="bottom")]
    return figure(traces, title, axis(f"limit ({label(known[0].get('unit', 'W'))})"),
                  axis("J per token", rangemode="tozero"), shapes=shapes, annotations=marks,
                  yaxis2=axis("tok/s", overlaying="y", side="right", rangemode="tozero"))


def row_power(times_s: Sequence[float], watts: Sequence[float], provisioned_w: float,
              thresholds: dict[str, float], title: str = "Power of the row") -> Figure:
    """A simulated row over time against what it may draw. ``thresholds``: name -> share of that."""
    if not times_s:
        return empty(title, "Nothing was simulated.")
    points = thin(list(zip(times_s, watts, strict=True)))
    lines = {**{n: s * provisioned_w for n, s in thresholds.items()}, "provisioned": provisioned_w}
    return figure([
        {"type": "scatter", "mode": "lines", "name": "row (simulated)",
         "x": [p[0] / 3600 for p in points], "y": [p[1] / 1000 for p in points],
         "line": {"color": PALETTE[0], "width": 1.5},
         "hovertemplate": "%{y:.1f} kW at %{x:.2f} h<extra></extra>"},
        *({"type": "scatter", "mode": "lines", "name": label(name), "hoverinfo": "skip",
           "x": [points[0][0] / 3600, points[-1][0] / 3600], "y": [w / 1000] * 2,
           "line": {"color": BAD if name == "provisioned" else NEUTRAL, "dash": "dash", "width": 1}}
          for name, w in lines.items())],
        title, axis("time (h)"), axis("kW", rangemode="tozero"))


def predicted_against_measured(pairs: Sequence[tuple[float, float]], unit: str,
                               title: str = "Held-out products: predicted and measured") -> Figure:
    """(measured, predicted) of shapes that the fit has not seen, on logarithmic axes."""
    known = [(m, p) for m, p in pairs if m > 0 and p > 0]
    if not known:
        return empty(title, "No held-out measurement.")
    low, high = (f(min(p) if f is min else max(p) for p in known) for f in (min, max))
    points = thin(known)
    return figure([
        {"type": "scatter", "mode": "lines", "x": [low, high], "y": [low, high], "name": "equal",
         "line": {"color": NEUTRAL, "dash": "dash", "width": 1}, "hoverinfo": "skip"},
        {"type": "scatter", "mode": "markers", "name": "held out", "x": [p[0] for p in points],
         "y": [p[1] for p in points], "marker": {"color": PALETTE[0], "size": 5, "opacity": 0.6},
         "hovertemplate": "measured %{x:.3g}, predicted %{y:.3g} " + label(unit) + "<extra></extra>"}],
        title, axis(f"measured ({label(unit)})", type="log"),
        axis(f"predicted ({label(unit)})", type="log"), showlegend=False)
