"""What neighbours took, over the time of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workbench.charts.base import BAD, NEUTRAL, PALETTE, Figure, axis, empty, figure, thin
from workbench.events import Interference


def neighbours(seen: Sequence[Interference], title: str = "What neighbours took") -> Figure:
    """Others' share of the CPU and our waiting, per window of a quarter second, as steps."""
    if not seen:
        return empty(title, "Neighbours were not watched in this run.")
    rows = thin(list(seen))
    traces = [_line(rows, "others", "CPU used by others", NEUTRAL),
              _line(rows, "waited", "our waiting for a core", BAD),
              _line(rows, "steal", "stolen by the hypervisor", PALETTE[3])]
    return figure([t for t in traces if t is not None], title, axis("time (s)"),
                  axis("share (%)", rangemode="tozero"))


def _line(rows: Sequence[Interference], name: str, said: str, color: str) -> dict[str, Any] | None:
    points = [(e.end_s, 100 * getattr(e, name)) for e in rows if getattr(e, name) is not None]
    if not any(y for _, y in points):
        return None
    return {"type": "scatter", "mode": "lines", "name": said, "x": [x for x, _ in points],
            "y": [y for _, y in points], "line": {"color": color, "width": 2, "shape": "vh"},
            "hovertemplate": said + ": %{y:.3g} % at %{x:.2f} s<extra></extra>"}
