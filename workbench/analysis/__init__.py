"""Pure functions from events to frames and numbers. polars is imported when a frame is asked for."""

from workbench.analysis import metrics
from workbench.analysis.comparing import compare, table
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
from workbench.analysis.grouping import Group, group
from workbench.analysis.metrics import format_metric, summarize
from workbench.analysis.rates import rolling_rate
from workbench.analysis.textdiff import TextDiff, textdiff
from workbench.analysis.trace import chrome_trace
from workbench.analysis.waterfall import (
    PARTS,
    Waterfall,
    advice,
    breakdown,
    waterfall,
    waterfall_of,
    why,
)

__all__ = [
    "PARTS", "Group", "TextDiff", "Waterfall", "advice", "breakdown", "chrome_trace", "compare", "drafts",
    "effective", "format_metric", "group", "kernels", "memory", "metrics", "phases", "power",
    "rolling_rate", "sensors", "summarize", "table", "textdiff", "tokens", "transfers",
    "waterfall", "waterfall_of", "why", "wide",
]
