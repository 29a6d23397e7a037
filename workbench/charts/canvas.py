"""How a canvas filled in: places across, forwards down, the token where it was fixed; and what fixing many
at once does to the answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from workbench import events as ev
from workbench.charts.base import INK, PALETTE, Figure, axis, empty, figure, label, note

if TYPE_CHECKING:
    from workbench.analysis.parallelism import Point, Study

#: Places and steps that a picture shows.
_MOST = 64
_SYMBOLS = {"diffusion_static": "circle", "diffusion_threshold": "square", "diffusion_freedave": "star",
            "diffusion_localleap": "diamond", "diffusion_credit": "cross", "diffusion_entropy": "x",
            "diffusion_learn2pd": "triangle-up"}


def canvas(commits: Sequence[ev.Commit], title: str = "How the canvas filled in") -> Figure:
    """One cell per place and forward: open, just fixed (with its token), fixed before."""
    if not commits:
        return empty(title, "Only masked-diffusion models fill a canvas; open wb-dlm to see one.")
    places = min(_MOST, commits[0].canvas)
    steps = sorted({c.step for c in commits})[:_MOST]
    at = {step: i for i, step in enumerate(steps)}
    values: list[list[float | None]] = [[None] * places for _ in steps]
    words = [[""] * places for _ in steps]
    hover = [["open"] * places for _ in steps]
    for c in commits:
        if c.place >= places or c.step not in at:
            continue
        row = at[c.step]
        values[row][c.place] = c.confidence
        words[row][c.place] = label(c.text, 10)
        hover[row][c.place] = f"{label(c.text)}: confidence {c.confidence:.3f}"
        for later in range(row + 1, len(steps)):
            hover[later][c.place] = f"{label(c.text)}, fixed at forward {c.step}"
            words[later][c.place] = "·"
    trace: dict[str, Any] = {
        "type": "heatmap", "z": values, "text": words, "texttemplate": "%{text}", "customdata": hover,
        "x": list(range(places)), "y": [str(s) for s in steps], "zmin": 0, "zmax": 1, "xgap": 2,
        "ygap": 2, "colorscale": [[0, "#D55E00"], [0.5, "#E69F00"], [0.9, "#56B4E9"], [1, "#009E73"]],
        "colorbar": {"title": {"text": "confidence"}, "thickness": 10},
        "hovertemplate": "place %{x}, forward %{y}: %{customdata}<extra></extra>"}
    return figure([trace], title, axis("place on the canvas", dtick=1),
                  axis("forward", autorange="reversed", type="category"),
                  height=max(240, min(620, 110 + 26 * len(steps))))


def parallelism(study: Study, tasks: Sequence[str] = (), title: str = "Quality against parallelism",
                here: tuple[str, float] | None = None) -> Figure:
    """One mark per task and decoder, with its 95 % interval; a task's line joins the decoders that no other
    one beats in both. ``tasks``: those that are shown at once (the legend has the others). ``here``: (task,
    tokens per forward) of a run."""
    if not study.points:
        return empty(title, "Nothing was measured; `workbench bench diffusion` measures it.")
    traces: list[dict[str, Any]] = []
    for i, task in enumerate(study.tasks):
        traces += _task(study.of(task), task, i, True if not tasks or task in tasks else "legendonly")
    layout: dict[str, Any] = {}
    if here is not None and here[0] in study.tasks:
        layout = {"shapes": [{"type": "line", "x0": here[1], "x1": here[1], "y0": 0, "y1": 1, "yref": "paper",
                              "line": {"color": INK, "width": 1, "dash": "dot"}}],
                  "annotations": [note("this run", x=here[1], y=0.02, xref="x", yanchor="bottom",
                                       xanchor="left", font={"size": 11, "color": INK})]}
    return figure(traces, title, axis("tokens per forward", rangemode="tozero"),
                  axis("valid answers (%)", range=[-4, 108]), height=380,
                  legend={"orientation": "v", "x": 1.02, "y": 1, "xanchor": "left", "yanchor": "top",
                          "tracegroupgap": 0},
                  **layout)


def _task(points: Sequence[Point], task: str, number: int, visible: bool | str) -> list[dict[str, Any]]:
    """The marks of one task, and the line of its best ones."""
    from workbench.analysis.parallelism import unbeaten

    color, again = PALETTE[number % len(PALETTE)], number >= len(PALETTE)
    best = unbeaten(points)
    shared = {"type": "scatter", "visible": visible, "legendgroup": task}
    return [
        {**shared, "mode": "lines", "x": [p.per_forward for p in best], "y": [100 * p.valid for p in best],
         "line": {"color": color, "width": 1.5, "dash": "dot" if again else "solid"}, "showlegend": False,
         "hoverinfo": "skip"},
        {**shared, "mode": "markers", "name": label(task),
         "x": [p.per_forward for p in points], "y": [100 * p.valid for p in points],
         "marker": {"color": color, "size": 8,
                    "symbol": [_symbol(p.decoder) + ("-open" if again else "") for p in points]},
         "error_y": {"type": "data", "symmetric": False, "thickness": 1, "width": 2,
                     "array": [100 * (p.interval[1] - p.valid) for p in points],
                     "arrayminus": [100 * (p.valid - p.interval[0]) for p in points]},
         "customdata": [[label(p.decoder), p.right, p.examples, p.same] for p in points],
         "hovertemplate": f"{label(task)}, %{{customdata[0]}}: %{{customdata[1]}} of %{{customdata[2]}} "
                          "valid at %{x:.2f} tokens per forward; %{customdata[3]} texts as one place "
                          "per forward<extra></extra>"}]


def _symbol(decoder: str) -> str:
    """One mark per family of decoders."""
    return _SYMBOLS.get(decoder.partition("(")[0], "circle")
