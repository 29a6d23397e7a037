"""Speculation: the ribbon of drafted tokens, acceptance by place, where time goes, when it pays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

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
    from workbench.analysis.speculation import Cell, Depth, Step
    from workbench.analysis.speculation_cost import BreakEven

#: State -> (number in the heatmap, colour, word).
STATES = {"plain": (0, NEUTRAL, "target alone"), "rejected": (1, BAD, "rejected"),
          "accepted": (2, GOOD, "accepted"), "bonus": (3, PALETTE[4], "the target's own")}
#: Steps and columns that the ribbon shows.
_STEPS, _COLUMNS = 24, 24
_FEW = 3
#: Under the plot: a run's name beside a legend leaves no room for either.
_BELOW: dict[str, Any] = {
    "legend": {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0,
               "xanchor": "left"},
    "margin": {"l": 56, "r": 16, "t": 44, "b": 78}}
_NOTHING = "Nothing was drafted: plain decoding emits one token per forward."


def ribbon(steps: Sequence[Step], title: str = "Token ribbon") -> Figure:
    """One line per step, the latest ones: every drafted token with its fate, then the target's own."""
    shown = list(steps)[-_STEPS:]
    if not any(s.drafted for s in steps):
        return empty(title, _NOTHING)
    lines = [_line(s.cells) for s in shown]
    width = max(len(line) for line in lines)
    pad: list[Any] = [None] * width
    z = [([STATES[c.state][0] for c in line] + pad)[:width] for line in lines]
    words = [([_word(c.text) for c in line] + [""] * width)[:width] for line in lines]
    hover = [([_hover(c) for c in line] + [""] * width)[:width] for line in lines]
    traces: list[dict[str, Any]] = [{
        "type": "heatmap", "z": z, "text": words, "texttemplate": "%{text}", "customdata": hover,
        "x": list(range(1, width + 1)), "y": [str(s.step) for s in shown], "zmin": -0.5, "zmax": 3.5,
        "xgap": 2, "ygap": 3, "showscale": False, "hoverongaps": False, "colorscale": _scale(),
        "hovertemplate": "step %{y}: %{customdata}<extra></extra>"}]
    traces += [{"type": "scatter", "mode": "markers", "name": word, "x": [None], "y": [None],
                "marker": {"color": color, "symbol": "square", "size": 10}}
               for _, color, word in STATES.values()]
    return figure(traces, title, axis("token of the step, in the order drafted", dtick=1),
                  axis("step", autorange="reversed", type="category"),
                  height=max(240, min(710, 150 + 22 * len(shown))), **_BELOW)


def _word(text: str) -> str:
    """Short, with line breaks and blanks to be seen."""
    seen = text.replace("\n", "⏎")
    return label(seen if seen.strip() else "␣" * min(4, len(seen)), 10)


def _line(cells: Sequence[Cell]) -> list[Cell]:
    """At most so many columns; what was kept is never cut."""
    left = list(cells)
    while len(left) > _COLUMNS:
        rejected = [i for i, c in enumerate(left) if c.state == "rejected"]
        left.pop(rejected[-1] if rejected else -1)
    return left


def _hover(cell: Cell) -> str:
    where = f", depth {cell.depth} of the draft" if cell.depth else ""
    return f"{label(cell.text)}: {STATES[cell.state][2]}{where}"


def _scale() -> list[list[Any]]:
    """One flat colour per state."""
    scale: list[list[Any]] = []
    for number, color, _ in STATES.values():
        scale += [[number / 4, color], [(number + 1) / 4, color]]
    return scale


def by_depth(rows: Sequence[tuple[str, Sequence[Depth]]], title: str = "Acceptance by place in the draft"
             ) -> Figure:
    """``rows``: (name of the run, its depths). Bars: of the times that the place was reached, how often
    one of its tokens was right; bars of few observations are pale."""
    if not any(depths for _, depths in rows):
        return empty(title, _NOTHING)
    traces = []
    for i, (name, depths) in enumerate(rows):
        reached = [d for d in depths if d.tried]
        traces.append({
            "type": "bar", "name": label(name), "x": [d.depth for d in reached],
            "y": [100 * d.kept / d.tried for d in reached],
            "marker": {"color": PALETTE[i % len(PALETTE)],
                       "opacity": [0.35 if d.tried < _FEW else 1.0 for d in reached]},
            "customdata": [[d.kept, d.tried, d.nodes] for d in reached],
            "hovertemplate": "depth %{x}: %{y:.0f} % (%{customdata[0]} of %{customdata[1]} times; "
                             "%{customdata[2]} tokens drafted there)<extra></extra>"})
    return figure(traces, title, axis("depth in the draft", dtick=1),
                  axis("right, of the times reached (%)", range=[0, 100]), barmode="group", height=330,
                  **_BELOW, annotations=[
                      note("pale: fewer than three observations", x=1, y=1.02, xanchor="right",
                           yanchor="bottom", font={"size": 11, "color": INK})])


def cost_split(rows: Sequence[tuple[str, dict[str, float]]], title: str = "Where a token's time goes"
               ) -> Figure:
    """``rows``: (run, part -> milliseconds per emitted token), stacked."""
    if not rows:
        return empty(title, "Fewer than two tokens: no time per token can be divided.")
    parts = list(dict.fromkeys(part for _, values in rows for part in values))
    names = [label(name, 40) for name, _ in rows]
    traces = [{"type": "bar", "orientation": "h", "name": part, "y": names,
               "x": [values.get(part, 0.0) for _, values in rows],
               "marker": {"color": PALETTE[i % len(PALETTE)]},
               "hovertemplate": f"{part}: %{{x:.3g}} ms per token<extra></extra>"}
              for i, part in enumerate(parts) if any(values.get(part) for _, values in rows)]
    return figure(traces, title, axis("ms per emitted token", rangemode="tozero"),
                  axis(autorange="reversed"), barmode="stack", height=150 + 44 * len(rows),
                  legend={"orientation": "h", "y": -0.5, "x": 0})


def break_even(found: BreakEven, title: str = "Speed-up by acceptance and batch (estimated)") -> Figure:
    """One cell per acceptance and batch; the line is where speculation starts to pay; the cross is the
    run itself."""
    from workbench.analysis.speculation_cost import ACCEPTANCES

    x = [100 * a for a in ACCEPTANCES]
    y = [str(b) for b in found.batches]
    top = max(2.0, max(max(row) for row in found.speedup))
    one = 1.0 / top
    heat = {"type": "heatmap", "x": x, "y": y, "z": [list(row) for row in found.speedup], "zmin": 0,
            "zmax": top, "colorscale": [[0, BAD], [one, "#f2f2f2"], [1, GOOD]],
            "colorbar": {"title": {"text": "x plain"}, "thickness": 10},
            "hovertemplate": "acceptance %{x:.0f} %, batch %{y}: %{z:.2f} x plain, estimated<extra></extra>"}
    needed = [(100 * a, str(b)) for b in found.batches if (a := found.needed(b)) is not None]
    line = {"type": "scatter", "mode": "lines+markers", "name": "pays from here on",
            "x": [n[0] for n in needed], "y": [n[1] for n in needed],
            "line": {"color": INK, "width": 2, "shape": "vh"},
            "hovertemplate": "batch %{y}: pays from %{x:.0f} % on, estimated<extra></extra>"}
    here = {"type": "scatter", "mode": "markers", "name": "this run", "x": [100 * found.acceptance],
            "y": [str(found.batch)], "marker": {"color": "#000000", "symbol": "x", "size": 12,
                                                "line": {"color": "#ffffff", "width": 1}},
            "hovertemplate": f"this run: {found.here:.2f} x plain by its measured costs<extra></extra>"}
    return figure([heat, line, here], title, axis("chance that a drafted token is right (%)", range=[0, 100]),
                  axis("sequences in the batch", type="category"), height=320)
