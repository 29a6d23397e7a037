"""Frames to Plotly figures as plain dicts; Plotly itself is not imported."""

from workbench.charts.base import Figure, empty, inked, label
from workbench.charts.canvas import canvas
from workbench.charts.compared import comparison, quality, waterfall
from workbench.charts.live import (
           acceptance,
           kernels_by_phase,
           memory_by_tier,
           power,
           tokens_per_second,
)

__all__ = ["Figure", "acceptance", "canvas", "comparison", "empty", "inked", "kernels_by_phase", "label",
           "memory_by_tier", "power", "quality", "tokens_per_second", "waterfall"]
