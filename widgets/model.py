"""The widget: one anywidget whose traits go from Python to the browser only; clicks come as messages.

One direction per channel is what makes it safe to write from a background thread: no trait is ever
written from both sides. Plotly's script (one copy, not one per chart) travels as a binary message
when a page first asks for it, so that a saved notebook never contains it.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from workbench.widgets.style import STATIC, style

#: Parts of the script in the order in which they depend on each other; one ES module in the end.
_SCRIPTS = ("dom.js", "controls.js", "forecast.js", "prompt.js", "output.js", "charts.js",
            "tables.js", "panels.js", "main.js")


def script() -> str:
    """The browser half, as one ES module."""
    return "\n".join((STATIC / name).read_text("utf-8") for name in _SCRIPTS)


@functools.cache
def plotly_script() -> bytes:
    """Plotly's own bundle from the installed package, gzip-compressed."""
    import gzip

    import plotly

    source = (Path(plotly.__file__).parent / "package_data" / "plotly.min.js").read_bytes()
    return gzip.compress(source, compresslevel=5)


class BenchWidget(anywidget.AnyWidget):
    """State of the view, read by ``static/*.js``. See :mod:`workbench.widgets.state`."""

    _esm = script()
    _css = style()
    about = traitlets.Dict().tag(sync=True)
    controls: Any = traitlets.List().tag(sync=True)
    forecast = traitlets.Dict().tag(sync=True)
    prompts: Any = traitlets.List().tag(sync=True)
    prompt = traitlets.Unicode("").tag(sync=True)
    status = traitlets.Dict().tag(sync=True)
    text = traitlets.Dict().tag(sync=True)
    tiles: Any = traitlets.List().tag(sync=True)
    chart_titles: Any = traitlets.List().tag(sync=True)
    figure_speed = traitlets.Dict().tag(sync=True)
    figure_kernels = traitlets.Dict().tag(sync=True)
    figure_memory = traitlets.Dict().tag(sync=True)
    figure_power = traitlets.Dict().tag(sync=True)
    figure_acceptance = traitlets.Dict().tag(sync=True)
    comparison = traitlets.Dict().tag(sync=True)
    figure_comparison = traitlets.Dict().tag(sync=True)
    effective: Any = traitlets.List().tag(sync=True)
    difference = traitlets.Dict().tag(sync=True)
    history: Any = traitlets.List().tag(sync=True)
    panels: Any = traitlets.List().tag(sync=True)
    panel = traitlets.Dict().tag(sync=True)
    formats: Any = traitlets.List().tag(sync=True)
