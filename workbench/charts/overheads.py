"""A request's wait as a cascade of stages."""

from __future__ import annotations

from collections.abc import Sequence

from workbench.analysis.overheads import Request
from workbench.charts.base import NEUTRAL, PALETTE, Figure, axis, empty, figure, label

_COLORS = {"client": PALETTE[4], "wire": PALETTE[1], "engine": PALETTE[7]}


def cascade(request: Request | None, hidden: Sequence[str] = (), title: str = "From request to last word"
            ) -> Figure:
    """Each stage begins where the one before it ended; inference in its own colour. Stages under a
    thousandth of the whole are left out of the picture (the table has them)."""
    if request is None:
        return empty(title, "This run was recorded without its stages.")
    kept = [s for s in request.stages if s.name not in hidden]
    whole = sum(s.seconds for s in kept) or 1.0
    starts, at = [], 0.0
    for stage in kept:
        starts.append(at)
        at += stage.seconds
    drawn = [(s, b) for s, b in zip(kept, starts, strict=True) if s.seconds > whole / 1000]
    bars = {"type": "bar", "orientation": "h", "y": [label(s.name) for s, _ in drawn],
            "x": [1e3 * s.seconds for s, _ in drawn], "base": [1e3 * b for _, b in drawn],
            "customdata": [[label(s.said), s.where, 100 * s.seconds / whole] for s, _ in drawn],
            "marker": {"color": [PALETTE[0] if s.model else _COLORS.get(s.where, NEUTRAL)
                                 for s, _ in drawn]},
            "hovertemplate": "%{customdata[0]} (%{customdata[1]}): %{x:.3g} ms, "
                             "%{customdata[2]:.2g} %<extra></extra>"}
    return figure([bars], title, axis("ms since the request, stages in order"),
                  axis(autorange="reversed"), showlegend=False, height=max(240, 70 + 24 * len(drawn)))
