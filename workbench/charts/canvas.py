"""How a canvas filled in: places across, forwards down, the token where it was fixed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workbench import events as ev
from workbench.charts.base import Figure, axis, empty, figure, label

#: Places and steps that a picture shows.
_MOST = 64


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
