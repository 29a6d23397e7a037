"""Runs against a baseline: values, ratios, and which way is better."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from workbench import events as ev
from workbench.analysis.metrics import QUALITY, SPECS, format_metric

if TYPE_CHECKING:
    import polars as pl

#: A ratio closer to 1 than this is called the same: single runs scatter by about as much.
SAME = 0.02


class HasMetrics(Protocol):
    """What comparing needs of a run; live, recorded and replayed ones have it."""

    @property
    def id(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def metrics(self) -> Mapping[str, ev.Metric]: ...


def compare(runs: Sequence[HasMetrics], baseline: HasMetrics | None = None) -> pl.DataFrame:
    """One row per metric and run, in the order of ``SPECS`` and ``runs``.

    Columns: metric label unit better run run_label value se quality reason baseline ratio verdict
    text. ``ratio`` = value / baseline; ``verdict``: ``baseline better worse same`` (within 2 %, or
    within the spread of repeats) or empty."""
    import polars as pl

    baseline = baseline if baseline is not None or not runs else runs[0]
    rows = [_row(name, run, baseline) for name in SPECS for run in runs]
    return pl.DataFrame(rows, schema=_schema(), orient="row")


def _schema() -> dict[str, Any]:
    import polars as pl

    numbers = {"value", "se", "baseline", "ratio"}
    names = ("metric", "label", "unit", "better", "run", "run_label", "value", "se", "quality",
             "reason", "baseline", "ratio", "verdict", "text")
    return {n: pl.Float64 if n in numbers else pl.String for n in names}


def _row(name: str, run: HasMetrics, baseline: HasMetrics | None) -> tuple[Any, ...]:
    spec, m = SPECS[name], run.metrics.get(name)
    base = baseline.metrics.get(name) if baseline is not None else None
    value = None if m is None or m.value is None else float(m.value)
    against = None if base is None or base.value is None else float(base.value)
    ratio = value / against if value is not None and against else None
    is_base = baseline is not None and run.id == baseline.id
    judged = "same" if _scattered(m, base) else verdict(name, ratio)
    return (name, spec.label, spec.unit, spec.better, run.id, run.label, value,
            m.se if m else None, m.quality if m else "", m.reason if m else "not recorded", against,
            ratio, "baseline" if is_base else judged, format_metric(m))


def _scattered(a: ev.Metric | None, b: ev.Metric | None) -> bool:
    """Whether two means differ by less than their spread. Quality is measured on the same text for
    all, so its standard errors, which are of the text, do not count here."""
    if a is None or b is None or not a.se or not b.se or a.name in QUALITY:
        return False
    return abs(float(a.value or 0) - float(b.value or 0)) < math.hypot(a.se, b.se)


def verdict(name: str, ratio: float | None) -> str:
    """``better``, ``worse``, ``same`` (within 2 %), or empty where neither direction is better."""
    better = SPECS[name].better
    if ratio is None or not better:
        return ""
    if abs(ratio - 1) < SAME:
        return "same"
    return "better" if (ratio > 1) == (better == "higher") else "worse"


def table(runs: Sequence[HasMetrics], baseline: HasMetrics | None = None,
          metrics: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The comparison as rows for a view: ``metric label help cells``; a cell has ``run text ratio
    verdict note`` (``note``: why it is missing or estimated). Rows that no run has are left out
    unless ``metrics`` names them."""
    baseline = baseline if baseline is not None or not runs else runs[0]
    rows = []
    for name in metrics or SPECS:
        cells = []
        for run in runs:
            data = dict(zip(_schema(), _row(name, run, baseline), strict=True))
            cells.append({"run": run.id, "text": data["text"], "value": data["value"],
                          "ratio": data["ratio"], "verdict": data["verdict"],
                          "note": data["reason"]})
        if metrics or any(c["value"] is not None for c in cells) or name in ALWAYS:
            rows.append({"metric": name, "label": SPECS[name].label, "help": SPECS[name].help,
                         "cells": cells})
    return rows


#: Shown even when missing, because people look for them: the cell carries the reason.
ALWAYS = ("ttft_s", "tpot_s", "tok_per_s", "peak_ram_bytes", "j_per_token", "perplexity", "kl_mean",
          "top1")
