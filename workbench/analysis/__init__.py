"""Pure functions from events to frames and numbers. polars is imported when a frame is asked for."""

from workbench.analysis import metrics
from workbench.analysis.frames import (
    drafts,
    effective,
    kernels,
    memory,
    phases,
    power,
    sensors,
    tokens,
    transfers,
    wide,
)
from workbench.analysis.metrics import format_metric, summarize

__all__ = ["drafts", "effective", "format_metric", "kernels", "memory", "metrics", "phases", "power",
           "sensors", "summarize", "tokens", "transfers", "wide"]
