"""One run's time per token by part."""

from __future__ import annotations

from workbench.analysis.waterfall import PARTS, SHORT, Breakdown
from workbench.charts.base import INK, PALETTE, Figure, axis, empty, figure, label

#: Parts that are computing, and those that are not: a forward's own work stands out.
_WORK = ("weights", "attention", "small", "decode", "verify", "prefill")


def parts(found: Breakdown | None, title: str = "Where a token's time goes") -> Figure:
    """Milliseconds per token of every part, longest on top; they sum to the time per token."""
    if found is None:
        return empty(title, "At least two tokens are needed.")
    rows = sorted(((p, ms) for p, ms in found.parts.items() if ms > 1e-3 * found.total_ms),
                  key=lambda r: r[1])
    trace = {
        "type": "bar", "orientation": "h", "y": [label(SHORT[p]) for p, _ in rows],
        "x": [ms for _, ms in rows], "customdata": [label(PARTS[p]) for p, _ in rows],
        "marker": {"color": [PALETTE[0] if p in _WORK else PALETTE[1] for p, _ in rows]},
        "text": [f"{ms:.3g} ms, {100 * ms / found.total_ms:.0f} %" for _, ms in rows],
        "textposition": "outside", "cliponaxis": False, "textfont": {"color": INK},
        "hovertemplate": "%{customdata}: %{x:.3g} ms per token<extra></extra>"}
    return figure([trace], f"{title}: {found.total_ms:.3g} ms", axis("ms per token", rangemode="tozero"),
                  axis(), showlegend=False, height=80 + 34 * max(3, len(rows)),
                  margin={"l": 90, "r": 90, "t": 56, "b": 46})
