"""Charts over several runs: comparison, waterfall, speed against quality."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.analysis.metrics import SPECS
from workbench.analysis.waterfall import SHORT
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
)

if TYPE_CHECKING:
    import polars as pl

#: Metrics of the comparison, each in its own panel; those that no run has are left out.
PANELS = ("tok_per_s", "ttft_s", "peak_gpu_bytes", "peak_ram_bytes", "j_per_token", "perplexity",
          "kl_mean")


def comparison(compared: pl.DataFrame, metrics: tuple[str, ...] = PANELS,
               title: str = "Comparison") -> Figure:
    """From ``analysis.compare``: one panel per metric, one bar per run, the baseline marked.

    Bars carry their value; the hover says the ratio to the baseline."""
    import polars as pl

    known = compared.filter(pl.col("value").is_not_null())
    chosen = [m for m in metrics if (known["metric"] == m).any()]
    if not chosen:
        return empty(title, "No finished run has numbers to compare yet.")
    runs = compared.select("run", "run_label").unique(maintain_order=True).rows()
    names = _distinct([r[1] for r in runs])
    traces, axes, notes = [], {}, []
    width = 1 / len(chosen)
    for i, metric in enumerate(chosen):
        key = "" if i == 0 else str(i + 1)
        rows = {r["run"]: r for r in known.filter(pl.col("metric") == metric).rows(named=True)}
        traces.append(_bars(metric, [r[0] for r in runs], names, rows, key))
        left = i * width
        axes[f"xaxis{key}"] = axis(domain=[left, left + width * 0.82], showticklabels=False,
                                   showgrid=False, rangemode="tozero", anchor=f"y{key}")
        axes[f"yaxis{key}"] = axis(autorange="reversed", anchor=f"x{key}", showgrid=False,
                                   showticklabels=i == 0)
        arrow = {"higher": " ↑", "lower": " ↓"}.get(SPECS[metric].better, "")
        notes.append(note(SPECS[metric].label + arrow, x=left, y=1.0, xanchor="left",
                          yanchor="bottom", font={"size": 12, "color": INK}))
    height = 90 + 34 * len(runs)
    return figure(traces, title, axes.pop("xaxis"), axes.pop("yaxis"), annotations=notes,
                  showlegend=False, height=max(height, 180), bargap=0.35,
                  margin={"l": 56, "r": 16, "t": 64, "b": 12}, **axes)


def _bars(metric: str, runs: list[str], names: list[str], rows: dict[str, Any], key: str
          ) -> dict[str, Any]:
    found = [rows.get(r) for r in runs]
    ratios = [f"{r['ratio']:.2f} × the baseline" if r and r["ratio"] else "" for r in found]
    return {
        "type": "bar", "orientation": "h", "xaxis": f"x{key}", "yaxis": f"y{key}", "y": names,
        "x": [r["value"] if r else None for r in found],
        "text": [label(r["text"]) if r else "n/a" for r in found], "textposition": "auto",
        "cliponaxis": False, "insidetextanchor": "end", "constraintext": "none",
        "insidetextfont": {"color": "#ffffff"},
        "outsidetextfont": {"color": INK}, "customdata": ratios,
        "marker": {"color": [PALETTE[i % len(PALETTE)] for i in range(len(runs))],
                   "opacity": [1.0 if r is None or r["quality"] != "estimated" else 0.55
                               for r in found]},
        "hovertemplate": f"{SPECS[metric].label}, %{{y}}: %{{text}}<br>%{{customdata}}<extra></extra>"}


def _distinct(labels: list[str]) -> list[str]:
    """Bars of equal names would fall onto one another: number the repeats."""
    found: list[str] = []
    for text in labels:
        name, n = label(text, 36), 2
        while name in found:
            name, n = f"{label(text, 32)} ({n})", n + 1
        found.append(name)
    return found


def waterfall(frame: pl.DataFrame, base: str = "baseline", other: str = "run",
              title: str = "Why: milliseconds per token") -> Figure:
    """From ``Waterfall.frame()``: base, the parts' differences, other; they sum exactly."""
    if frame.is_empty():
        return empty(title, "Two runs with at least two tokens each are needed.")
    total, end = float(frame["base_ms"].sum()), float(frame["other_ms"].sum())
    # A bar thinner than a line of the screen says nothing; the table has it.
    rows = [r for r in frame.rows(named=True) if abs(r["delta_ms"]) > 1e-3 * max(total, end)]
    values = [total, *(r["delta_ms"] for r in rows), end]
    # The ends may carry the same label (repeats), so positions are numbers with tick texts.
    ticks = [label(base, 24), *(SHORT.get(r["part"], label(r["part"])) for r in rows),
             label(other, 24)]
    trace = {
        "type": "waterfall", "x": list(range(len(values))), "y": values,
        "measure": ["absolute", *["relative"] * len(rows), "total"],
        "text": [f"{total:.3g}", *(f"{r['delta_ms']:+.3g}".replace("-", "−") for r in rows),
                 f"{end:.3g}"],
        "textposition": "outside", "cliponaxis": False, "textfont": {"color": INK},
        "connector": {"line": {"color": NEUTRAL, "width": 1, "dash": "dot"}},
        "increasing": {"marker": {"color": BAD}}, "decreasing": {"marker": {"color": GOOD}},
        "totals": {"marker": {"color": PALETTE[0]}},
        "hovertemplate": "%{text} ms per token<extra></extra>"}
    return figure([trace], title, axis(tickmode="array", tickvals=list(range(len(values))),
                                       ticktext=ticks, showgrid=False),
                  axis("ms per token", rangemode="tozero"), showlegend=False, height=340,
                  margin={"l": 56, "r": 16, "t": 56, "b": 60})


def quality(compared: pl.DataFrame, speed: str = "tok_per_s", metric: str | None = None,
            title: str = "Speed and quality") -> Figure:
    """From ``analysis.compare``: one point per run; right is faster, down is closer to the model.

    ``metric``: ``kl_mean`` where a run has it, else ``perplexity``. Bars are one standard error."""
    import polars as pl

    values = {(r["run"], r["metric"]): r for r in compared.filter(
        pl.col("value").is_not_null()).rows(named=True)}
    metric = metric or ("kl_mean" if any(m == "kl_mean" for _, m in values) else "perplexity")
    runs = [r for r in compared["run"].unique(maintain_order=True).to_list()
            if (r, speed) in values and (r, metric) in values]
    if not runs:
        return empty(title, "Quality was not measured; set quality to quick to see it beside speed.")
    points = [(values[r, speed], values[r, metric]) for r in runs]
    trace = {
        "type": "scatter", "mode": "markers+text", "x": [a["value"] for a, _ in points],
        "y": [b["value"] for _, b in points], "customdata": runs,
        "text": _distinct([a["run_label"] for a, _ in points]), "textposition": "top center",
        "cliponaxis": False, "textfont": {"color": INK},
        "error_y": {"type": "data", "array": [b["se"] or 0.0 for _, b in points], "visible": True,
                    "color": NEUTRAL, "thickness": 1.2},
        "marker": {"size": 12, "color": [PALETTE[i % len(PALETTE)] for i in range(len(runs))]},
        "hovertemplate": f"%{{text}}<br>{SPECS[speed].label} %{{x:.4g}} {SPECS[speed].unit}, "
                         f"{SPECS[metric].label} %{{y:.4g}} {SPECS[metric].unit}<extra></extra>"}
    unit = f" ({SPECS[metric].unit})" if SPECS[metric].unit else ""
    return figure([trace], title, axis(f"{SPECS[speed].label} ({SPECS[speed].unit})", rangemode="tozero"),
                  axis(SPECS[metric].label + unit), showlegend=False, height=340)
