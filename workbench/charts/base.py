"""What all charts share: colours, text made inert, the neutral layout, the chart that says why it is empty.

Figures are plain dicts in Plotly's JSON format. The background is transparent and the ink a grey
that reads on white and on black, so one figure serves light and dark pages; ``inked`` gives a page
that knows its colour more contrast.
"""

from __future__ import annotations

import html
from typing import Any

Figure = dict[str, Any]

#: Okabe and Ito's colours, told apart with every common colour vision, in an order for few series.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C7AE6", "#7F8C8D")
INK, GRID = "#76808c", "rgba(128,138,150,0.22)"
GOOD, BAD, NEUTRAL = "#009E73", "#D55E00", "#8a94a0"
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif'
#: Points per line beyond which a chart shows every n-th: no screen is wider.
MAX_POINTS = 800


def label(text: object, limit: int = 80) -> str:
    """Text as a label. Plotly renders a subset of HTML, so ``<`` and ``&`` become entities;
    control characters and line breaks become spaces; long text is cut."""
    clean = "".join(c if c.isprintable() else " " for c in str(text))
    clean = clean if len(clean) <= limit else clean[:limit - 1] + "…"
    return html.escape(clean, quote=False)


def axis(title: str = "", **more: Any) -> dict[str, Any]:
    """One axis: thin grid, no zero line, title with its unit."""
    return {"title": {"text": title, "standoff": 8}, "gridcolor": GRID, "zeroline": False,
            "linecolor": GRID, "tickcolor": GRID, "automargin": True, **more}


def figure(traces: list[dict[str, Any]], title: str, x: dict[str, Any] | None = None,
           y: dict[str, Any] | None = None, **layout: Any) -> Figure:
    """A figure with the neutral layout; ``layout`` entries win."""
    return {"data": traces, "layout": {
        "title": {"text": title, "x": 0, "xanchor": "left", "xref": "paper",
                  "font": {"size": 15}},
        "font": {"family": FONT, "size": 12, "color": INK}, "colorway": list(PALETTE),
        "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 56, "r": 16, "t": 44, "b": 44}, "height": 300, "autosize": True,
        "hoverlabel": {"bgcolor": "#2b2f36", "bordercolor": "#2b2f36", "font": {"color": "#ffffff"}},
        "hovermode": "closest", "legend": {"orientation": "h", "y": 1.02, "x": 1,
                                           "xanchor": "right", "yanchor": "bottom"},
        "xaxis": x or axis(), "yaxis": y or axis(), **layout}}


def empty(title: str, why: str) -> Figure:
    """No axes, one sentence (``layout.meta.empty`` has it for a page that shows text instead)."""
    hidden = {"visible": False, "range": [0, 1], "fixedrange": True}
    return figure([], title, hidden, hidden, annotations=[note(wrap(why))], meta={"empty": why})


def note(text: str, **more: Any) -> dict[str, Any]:
    """A sentence in the middle of the plot (or where ``more`` says)."""
    return {"text": text, "showarrow": False, "xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5,
            "font": {"size": 13, "color": INK}, **more}


def wrap(text: str, width: int = 64) -> str:
    """Escaped, broken into lines."""
    import textwrap

    return "<br>".join(html.escape(line, quote=False) for line in textwrap.wrap(text, width))


def thin(points: list[Any], limit: int = MAX_POINTS) -> list[Any]:
    """Every n-th element and the last, at most ``limit`` of them."""
    if len(points) <= limit:
        return points
    step = -(-len(points) // (limit - 1))
    return points[::step] if (len(points) - 1) % step == 0 else [*points[::step], points[-1]]


def inked(fig: Figure, ink: str, grid: str) -> Figure:
    """A copy with other text and grid colours."""

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: walk(v) for k, v in value.items()}
        if isinstance(value, list):
            return [walk(v) for v in value]
        return ink if value == INK else grid if value == GRID else value

    return {"data": fig["data"], "layout": walk(fig["layout"])}
